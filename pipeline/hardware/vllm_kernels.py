"""vLLM's kernels for each number format on NVIDIA GPUs: their requirements, and how to request them.

Data alone, read in vLLM's sources of the releases named below: `vllm/model_executor/kernels/linear/` (the lists of
possible kernels in their order of preference, `is_supported`, `can_implement`, the names of `--linear-backend`) and the
quantization methods' `get_min_capability`. A test compares it with the vLLM that is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# First and last release whose sources were read; the table holds for these and all between.
VLLM = ((0, 26), (0, 32))


@dataclass(frozen=True)
class Kernel:
    """A vLLM kernel for one number format.

    Attributes:
        name: vLLM's class as in its log, or a plain name if the log has none.
        choice: the value of `serve.kernel` (`--linear-backend`) that requests it; empty if none does.
        since: least compute capability.
        below: first compute capability without it.
        automatic: vLLM chooses it by itself if no earlier one fits.
        groups: supported group sizes; empty: any.
        dtypes: supported 16-bit types; empty: any.
        package: package required beside vLLM.
        release: first vLLM release that has it or allows requesting it.
        note: a remark for the user.
    """

    name: str
    choice: str
    since: float
    below: float = math.inf
    automatic: bool = True
    groups: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    package: str = ""
    release: tuple[int, int] = VLLM[0]
    note: str = ""


# Display names, by the value of `serve.kernel`.
TITLES = {
    "machete": "Machete",
    "marlin": "Marlin",
    "exllama": "ExLlama",
    "conch": "Conch",
    "cutlass": "CUTLASS",
    "flashinfer_cutlass": "FlashInfer CUTLASS",
    "flashinfer_cutedsl": "FlashInfer CuTe DSL",
    "flashinfer_cudnn": "FlashInfer cuDNN",
    "flashinfer_trtllm": "FlashInfer TensorRT-LLM",
    "triton": "Triton",
    "torch": "torch",
}
HOPPER, BLACKWELL, BLACKWELL_RTX = 9.0, 10.0, 12.0
_UNPACKED = "weights only: products are in 16 bits"
_NO_FP8 = f"{_UNPACKED}; FP8 products need 8.9"
_NO_FP4 = f"{_UNPACKED}; FP4 products need 10.0"

_CUTLASS_FP8 = Kernel("CutlassFP8ScaledMMLinearKernel", "cutlass", 8.9)
_MARLIN_FP8 = (
    Kernel("MarlinFP8ScaledMMLinearKernel", "marlin", 7.5, below=8.9, note=_NO_FP8),
    Kernel("MarlinFP8ScaledMMLinearKernel", "marlin", 8.9, automatic=False, release=(0, 32), note=_UNPACKED),
)
_INT8 = (
    # vLLM still chooses it on Blackwell, where there are no INT8 products and the first one fails.
    Kernel("CutlassInt8ScaledMMLinearKernel", "cutlass", 7.5, below=BLACKWELL),
    Kernel("TritonInt8ScaledMMLinearKernel", "triton", 7.5, automatic=False),
)
# Machete is built for Hopper alone. The others' least capability is that of the quantization methods.
_MACHETE = Kernel("MacheteLinearKernel", "machete", HOPPER, below=BLACKWELL, groups=(64, 128))
_MARLIN = Kernel("MarlinLinearKernel", "marlin", 7.5, groups=(32, 64, 128))
_CONCH = Kernel("ConchLinearKernel", "conch", 8.0, automatic=False, groups=(128,), package="conch-triton-kernels")
_EXLLAMA = Kernel("ExllamaLinearKernel", "exllama", 7.5, dtypes=("float16",))
_TRITON = Kernel("TritonW4A16LinearKernel", "triton", 7.5, groups=(32, 64, 128, 256))

KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    # FlashInfer and torch's own are for one scale a tensor, or for one a row: vLLM asks in this order.
    "FP8": (
        Kernel("FlashInferFP8ScaledMMLinearKernel", "flashinfer_cutlass", BLACKWELL),
        _CUTLASS_FP8,
        Kernel("PerTensorTorchFP8ScaledMMLinearKernel", "torch", 8.9),
        *_MARLIN_FP8,
    ),
    "FP8_DYNAMIC": (_CUTLASS_FP8, Kernel("ChannelWiseTorchFP8ScaledMMLinearKernel", "torch", 8.9), *_MARLIN_FP8),
    "W8A8": _INT8,
    "W8A8_STATIC": _INT8,
    "W4A16": (_MACHETE, _MARLIN, _CONCH, _EXLLAMA, _TRITON),
    "W4A16_ASYM": (_MACHETE, _MARLIN, _CONCH, _TRITON),
    "W8A16": (_MACHETE, _MARLIN, _CONCH, _EXLLAMA),
    "NF4": (Kernel("bitsandbytes", "", 7.0),),
    "LLM_INT8": (Kernel("bitsandbytes", "", 7.5),),
    "Q4_K_M": (Kernel("GGUF", "", 6.0),),
    "Q8_0": (Kernel("GGUF", "", 6.0),),
    "NVFP4": (
        Kernel("FlashInferCuteDslNvFp4LinearKernel", "flashinfer_cutedsl", BLACKWELL, below=BLACKWELL_RTX),
        Kernel("FlashInferCutlassNvFp4LinearKernel", "flashinfer_cutlass", BLACKWELL),
        Kernel("CutlassNvFp4LinearKernel", "cutlass", BLACKWELL),
        Kernel("MarlinNvFp4LinearKernel", "marlin", 7.5, note=_NO_FP4),
        Kernel("FlashInferTrtllmNvFp4LinearKernel", "flashinfer_trtllm", BLACKWELL, automatic=False),
        Kernel("FlashInferCudnnNvFp4LinearKernel", "flashinfer_cudnn", BLACKWELL, automatic=False),
        Kernel("TorchNvFp4LinearKernel", "torch", BLACKWELL, BLACKWELL_RTX, automatic=False, release=(0, 32)),
    ),
    "MXFP4": (
        Kernel("FlashInferMxFp4LinearKernel", "flashinfer_cutlass", BLACKWELL),
        Kernel("MarlinMxFp4LinearKernel", "marlin", 8.0, note=_NO_FP4),
    ),
}


def choices(scheme: str | None) -> tuple[str, ...]:
    """Return the values of `serve.kernel` for a number format, without `auto`."""
    return tuple(dict.fromkeys(kernel.choice for kernel in KERNELS.get(scheme or "", ()) if kernel.choice))


def title(kernel: Kernel) -> str:
    """Return a kernel's display name."""
    return TITLES.get(kernel.choice, kernel.name)


def is_asked_for(name: str, choice: str) -> bool:
    """Return whether a kernel named in vLLM's log is among those that a value of `serve.kernel` requests."""
    return any(name == kernel.name for kernels in KERNELS.values() for kernel in kernels if kernel.choice == choice)
