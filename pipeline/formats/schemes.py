"""Registry of number formats: one entry each, with all properties that do not depend on hardware.

Permitted settings, checkpoint size, decoding and rounding of numbers, and hardware support are all looked up here. A
new format is an entry of `SCHEMES`; if vLLM serves it by kernels of its own, an entry of
`hardware.vllm_kernels.SERVED`, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.formats import layouts
from pipeline.formats.blocks import BLOCKS, Mixture, q4_k_m, q8_0
from pipeline.formats.elements import E2M1, E4M3, ELEMENTS, NF4, Element
from pipeline.formats.grids import (
    Round,
    asymmetric,
    e4m3,
    fp8,
    fp8_blocks,
    grouped,
    power_of_two,
    symmetric,
    table,
)
from pipeline.formats.layouts import Packing, WeightLayout

Activations = Literal["bf16", "fp8", "int8", "fp4"]
Family = Literal["weights and activations", "weights only"]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One number format.

    Attributes:
        bits: bits of a stored weight, without its scales.
        engines: engine -> the algorithms it can round weights with.
        layouts: engine -> its storage layout of a weight; empty if a file mixes blocks.
        mixture: block format of each tensor, if a file mixes them.
        round: rounding to nearest; None where each block format has its own.
        served: kernels that serve it on each kind of hardware, a key of `hardware.vllm_kernels.SERVED`.
        activations: type that the products are computed in.
        static: the activations' numbers where their scale is calibrated, a key of `elements.ELEMENTS`.
        group: input channels that share a weight scale unless set otherwise; None: a scale per channel or tensor.
        group_is_free: whether another group size can be asked for.
        nests: whether the scales can be quantized, too.
        zero_points: whether groups have one.
        per_tensor: whether there is one scale for the whole weight.
        block: side of the squares of weights that share a scale; None: they lie in one row.
        divisor: divisor that the input width of a layer must have, beside the group size.
        shown_tokens: whether the engine sees calibration tokens however weights are rounded, for a scale of its own.
    """

    bits: float
    engines: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, WeightLayout]
    served: str
    round: Round | None
    mixture: Mixture | None = None
    activations: Activations = "bf16"
    static: str | None = None
    group: int | None = None
    group_is_free: bool = False
    nests: bool = False
    zero_points: bool = False
    per_tensor: bool = False
    block: int | None = None
    divisor: int = 1
    shown_tokens: bool = False

    @property
    def family(self) -> Family:
        """Kind of format."""
        return "weights only" if self.activations == "bf16" else "weights and activations"

    def packing(self, group: int | None, nested: bool = False) -> Packing:
        """Return the parameters that decide how a weight is stored.

        Args:
            group: input channels that share a scale.
            nested: whether the scales are quantized too.
        """
        return Packing(
            bits=int(self.bits),
            group=group,
            zero_points=self.zero_points,
            per_tensor=self.per_tensor,
            block=self.block,
            static=self.static is not None,
            weights_only=self.activations == "bf16",
            nested=nested,
        )


ROUND, GPTQ, AWQ, SIGNROUND = "rtn", "gptq", "awq", "signround"
SMOOTHQUANT, SMOOTHQUANT_GPTQ = "smoothquant", "smoothquant_gptq"
# How weights were rounded by others, where their checkpoint does not say.
UNKNOWN = "unknown"
# Algorithms that scale weights by activation statistics and divide the layers in front by the same -> the one whose
# mapping of these layers they use.
RESCALING: Mapping[str, str] = {AWQ: AWQ, SMOOTHQUANT: SMOOTHQUANT, SMOOTHQUANT_GPTQ: SMOOTHQUANT}
_GPTQS_OWN = dict.fromkeys(("gptqmodel", "autogptq", "autoround"), layouts.GPTQ)
SCHEMES: Mapping[str, Scheme] = {
    "FP8": Scheme(
        bits=8,
        engines={"llmcompressor": (ROUND, GPTQ)},
        layouts={"llmcompressor": layouts.FP8},
        served="fp8_tensors",
        round=fp8(per_tensor=True),
        activations="fp8",
        static="fp8_e4m3",
        per_tensor=True,
    ),
    "FP8_DYNAMIC": Scheme(
        bits=8,
        engines={"llmcompressor": (ROUND, GPTQ)},
        layouts={"llmcompressor": layouts.FP8},
        served="fp8_channels",
        round=fp8(per_tensor=False),
        activations="fp8",
    ),
    # As DeepSeek-V3 is stored: squares of 128 weights, activations in groups of 128 channels of a token.
    "FP8_BLOCK": Scheme(
        bits=8,
        engines={"llmcompressor": (ROUND,)},
        layouts={"llmcompressor": layouts.FP8},
        served="fp8_blocks",
        round=fp8_blocks(128),
        activations="fp8",
        block=128,
        divisor=128,
    ),
    "W8A8": Scheme(
        bits=8,
        engines={"llmcompressor": (ROUND, GPTQ, SMOOTHQUANT, SMOOTHQUANT_GPTQ)},
        layouts={"llmcompressor": layouts.INT8},
        served="int8_products",
        round=symmetric(8),
        activations="int8",
    ),
    "W8A8_STATIC": Scheme(
        bits=8,
        # Smoothing moves ranges after they were observed, so it does not go with static scales.
        engines={"llmcompressor": (ROUND, GPTQ)},
        layouts={"llmcompressor": layouts.INT8},
        served="int8_products",
        round=symmetric(8),
        activations="int8",
        static="int8",
    ),
    # Served in groups of 128 alone.
    "W4AFP8": Scheme(
        bits=4,
        engines={"llmcompressor": (ROUND, GPTQ)},
        layouts={"llmcompressor": layouts.PACKED},
        served="int4_fp8",
        round=symmetric(4),
        activations="fp8",
        group=128,
    ),
    "W4A16": Scheme(
        bits=4,
        engines={
            "llmcompressor": (ROUND, GPTQ, AWQ),
            "gptqmodel": (GPTQ,),
            "autogptq": (GPTQ,),
            "autoround": (SIGNROUND,),
        },
        layouts={"llmcompressor": layouts.PACKED, **_GPTQS_OWN},
        served="int4",
        round=symmetric(4),
        group=128,
        group_is_free=True,
    ),
    "W4A16_ASYM": Scheme(
        bits=4,
        engines={
            "llmcompressor": (ROUND, GPTQ, AWQ),
            "autoawq": (AWQ,),
            "gptqmodel": (AWQ,),
            "autoround": (SIGNROUND,),
        },
        layouts={
            "llmcompressor": layouts.PACKED,
            **dict.fromkeys(("autoawq", "gptqmodel", "autoround"), layouts.AWQ),
        },
        served="int4_with_zero_points",
        round=asymmetric(4),
        group=128,
        group_is_free=True,
        zero_points=True,
    ),
    "W8A16": Scheme(
        bits=8,
        engines={
            "llmcompressor": (ROUND, GPTQ),
            "gptqmodel": (GPTQ,),
            "autogptq": (GPTQ,),
            "autoround": (SIGNROUND,),
        },
        layouts={"llmcompressor": layouts.PACKED, **_GPTQS_OWN},
        served="int8_weights",
        round=symmetric(8),
        group=128,
        group_is_free=True,
    ),
    # bitsandbytes: Dettmers et al., "QLoRA", 2023, section 3 (NF4); "LLM.int8()", 2022.
    "NF4": Scheme(
        bits=4,
        engines={"bitsandbytes": (ROUND,)},
        layouts={"bitsandbytes": layouts.BITSANDBYTES},
        served="nf4",
        round=table(NF4),
        group=64,
        nests=True,
    ),
    "LLM_INT8": Scheme(
        bits=8,
        engines={"bitsandbytes": (ROUND,)},
        layouts={"bitsandbytes": layouts.BITSANDBYTES},
        served="llm_int8",
        round=grouped(symmetric(8), None),
        activations="int8",
    ),
    # llama.cpp's block formats: scales in the blocks, mixed precisions in the file.
    "Q4_K_M": Scheme(
        bits=4.5, engines={"gguf": (ROUND,)}, layouts={}, served="gguf", round=None, mixture=q4_k_m, divisor=256
    ),
    "Q8_0": Scheme(
        bits=8.5,
        engines={"gguf": (ROUND,)},
        layouts={},
        served="gguf",
        round=BLOCKS["Q8_0"].round,
        mixture=q8_0,
        divisor=32,
    ),
    # Blocks of 16 with FP8 scales (NVIDIA), of 32 with power-of-two scales (OCP Microscaling, 2023).
    # NVFP4's FP8 activation scales are computed while serving, with one calibrated scale per tensor.
    "NVFP4": Scheme(
        bits=4,
        engines={"llmcompressor": (ROUND,)},
        layouts={"llmcompressor": layouts.NVFP4},
        served="nvfp4",
        round=table(E2M1.numbers, e4m3),
        activations="fp4",
        group=16,
        shown_tokens=True,
    ),
    "NVFP4A16": Scheme(
        bits=4,
        engines={"llmcompressor": (ROUND,)},
        layouts={"llmcompressor": layouts.NVFP4},
        served="nvfp4_weights",
        round=table(E2M1.numbers, e4m3),
        group=16,
    ),
    "MXFP8": Scheme(
        bits=8,
        engines={"llmcompressor": (ROUND,)},
        layouts={"llmcompressor": layouts.MXFP8},
        served="mxfp8",
        round=table(E4M3.numbers, power_of_two),
        activations="fp8",
        group=32,
    ),
    "MXFP4": Scheme(
        bits=4,
        engines={"llmcompressor": (ROUND,)},
        layouts={"llmcompressor": layouts.MXFP4},
        served="mxfp4",
        round=table(E2M1.numbers, power_of_two),
        activations="fp4",
        group=32,
    ),
}
# A scheme for each group of Linears that vLLM loads as one, in place of one for all (`quant.candidates`).
MIXED = "MIXED"
ENGINES = ("none", *dict.fromkeys(engine for scheme in SCHEMES.values() for engine in scheme.engines))
# Element types that activations are calibrated for, by name.
CALIBRATED: Mapping[str, Element] = {
    scheme.static: ELEMENTS[scheme.static] for scheme in SCHEMES.values() if scheme.static is not None
}
