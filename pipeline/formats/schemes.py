"""The number formats: what each stores, what it does to activations, and which engine makes it by which algorithm.

Data alone; what a setting allows, what a checkpoint weighs and what a machine can serve are all derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Activations = Literal["bf16", "fp8", "int8", "fp4"]
Family = Literal["weights and activations", "weights only"]


@dataclass(frozen=True)
class Scheme:
    """One number format.

    Attributes:
        bits: bits of a stored weight, without its scales.
        engines: who makes it -> the algorithms that it can round weights with.
        activations: what the products are computed in.
        static: the activations' format where their scale is calibrated, a key of `calibrate.techniques.FORMATS`.
        group: input channels that share a weight scale unless set otherwise; None: a scale per channel or tensor.
        group_is_free: whether another group size can be asked for.
        divisor: what the input width of a layer must be divisible by, beside the group size.
        shown_tokens: whether the engine sees calibration tokens however weights are rounded, for a scale of its own.
    """

    bits: float
    engines: Mapping[str, tuple[str, ...]]
    activations: Activations = "bf16"
    static: str | None = None
    group: int | None = None
    group_is_free: bool = False
    divisor: int = 1
    shown_tokens: bool = False

    @property
    def family(self) -> Family:
        """What kind of format it is."""
        return "weights only" if self.activations == "bf16" else "weights and activations"


ROUND, GPTQ, AWQ, SMOOTHQUANT, SIGNROUND = "rtn", "gptq", "awq", "smoothquant", "signround"
SCHEMES: Mapping[str, Scheme] = {
    "FP8": Scheme(8, {"llmcompressor": (ROUND, GPTQ)}, activations="fp8", static="fp8_e4m3"),
    "FP8_DYNAMIC": Scheme(8, {"llmcompressor": (ROUND, GPTQ)}, activations="fp8"),
    "W8A8": Scheme(8, {"llmcompressor": (ROUND, GPTQ, SMOOTHQUANT)}, activations="int8"),
    # Smoothing moves ranges after they were observed, so it does not go with static scales.
    "W8A8_STATIC": Scheme(8, {"llmcompressor": (ROUND, GPTQ)}, activations="int8", static="int8"),
    "W4A16": Scheme(
        4,
        {
            "llmcompressor": (ROUND, GPTQ, AWQ),
            "gptqmodel": (GPTQ,),
            "autogptq": (GPTQ,),
            "autoround": (SIGNROUND,),
        },
        group=128,
        group_is_free=True,
    ),
    "W4A16_ASYM": Scheme(
        4,
        {"llmcompressor": (ROUND, GPTQ, AWQ), "autoawq": (AWQ,), "gptqmodel": (AWQ,), "autoround": (SIGNROUND,)},
        group=128,
        group_is_free=True,
    ),
    "W8A16": Scheme(
        8,
        {"llmcompressor": (ROUND, GPTQ), "gptqmodel": (GPTQ,), "autogptq": (GPTQ,), "autoround": (SIGNROUND,)},
        group=128,
        group_is_free=True,
    ),
    # bitsandbytes: Dettmers et al., "QLoRA", 2023, section 3 (NF4); "LLM.int8()", 2022.
    "NF4": Scheme(4, {"bitsandbytes": (ROUND,)}, group=64),
    "LLM_INT8": Scheme(8, {"bitsandbytes": (ROUND,)}, activations="int8"),
    # llama.cpp's block formats: scales in the blocks, mixed precisions in the file.
    "Q4_K_M": Scheme(4.5, {"gguf": (ROUND,)}, divisor=256),
    "Q8_0": Scheme(8.5, {"gguf": (ROUND,)}, divisor=32),
    # Blocks of 16 with FP8 scales (NVIDIA), of 32 with power-of-two scales (OCP Microscaling, 2023).
    # NVFP4's FP8 scales of activations are made while serving, below one calibrated scale per tensor.
    "NVFP4": Scheme(4, {"llmcompressor": (ROUND,)}, activations="fp4", group=16, shown_tokens=True),
    "MXFP4": Scheme(4, {"llmcompressor": (ROUND,)}, activations="fp4", group=32),
}
ENGINES = ("none", *dict.fromkeys(engine for scheme in SCHEMES.values() for engine in scheme.engines))
