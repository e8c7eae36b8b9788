"""vLLM's kernels for each number format, the settings that request them, and the hardware they run on.

Data alone, read in vLLM's sources of the releases named below: `vllm/model_executor/kernels/linear/` (the lists of
possible kernels in their order of preference, `is_supported`, `can_implement`, the names of `--linear-backend`) and the
quantization methods' `get_min_capability`. A test compares it with the vLLM that is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.formats.schemes import SCHEMES

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
        inputs: multiple that the inputs of a weight must be of, as one GPU holds it.
        outputs: multiple that its outputs must be of.
        is_logged: whether vLLM's log says that it was chosen.
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
    inputs: int = 1
    outputs: int = 1
    is_logged: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cpu:
    """Support of a format on a CPU.

    Attributes:
        kernel: kernel of vLLM or a plugin; empty if there is none.
        features: CPU features, any one of which suffices; empty: any CPU.
        choice: the value of `serve.kernel` that requests a second kernel, which runs on any CPU.
        emulated: whether this project's plugin serves it where the kernel cannot.
        note: a remark for the user.
    """

    kernel: str = ""
    features: tuple[str, ...] = ()
    choice: str = ""
    emulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class ServingKernels:
    """Kernels that serve a number format.

    Attributes:
        kernels: on NVIDIA GPUs, in vLLM's order of preference.
        cpu: on a CPU.
        plugin: package required beside vLLM, and the vLLM release that moved these formats to it.
        own_groups: group sizes in which vLLM serves the layouts of other engines than llm-compressor; empty: any.
        other_groups: the kernels for their other group sizes.
    """

    kernels: tuple[Kernel, ...]
    cpu: Cpu = Cpu()
    plugin: tuple[str, tuple[int, int]] | None = None
    own_groups: tuple[int, ...] = ()
    other_groups: tuple[Kernel, ...] = ()


# Display names, by the value of `serve.kernel`.
TITLES = {
    "machete": "Machete",
    "marlin": "Marlin",
    "humming": "Humming",
    "exllama": "ExLlama",
    "conch": "Conch",
    "cutlass": "CUTLASS",
    "deep_gemm": "DeepGEMM",
    "flashinfer_cutlass": "FlashInfer CUTLASS",
    "flashinfer_cutedsl": "FlashInfer CuTe DSL",
    "flashinfer_cudnn": "FlashInfer cuDNN",
    "flashinfer_trtllm": "FlashInfer TensorRT-LLM",
    "triton": "Triton",
    "torch": "torch",
}
ADA, HOPPER, BLACKWELL, BLACKWELL_RTX = 8.9, 9.0, 10.0, 12.0
_UNPACKED = "weights only: products are in 16 bits"
_NO_FP8 = f"{_UNPACKED}; FP8 products need 8.9"
_NO_MXFP8 = f"{_UNPACKED}; MXFP8 products need 10.0"
_NO_FP4 = f"{_UNPACKED}; FP4 products need 10.0"
_8_BITS = "activations in FP8 or INT8; FP4 products need 10.0"
_BF16 = ("bfloat16",)


def _humming(name: str, note: str = "", since: float = 7.5, groups: tuple[int, ...] = ()) -> tuple[Kernel, Kernel]:
    """Return one of Humming's kernels on Hopper, where vLLM 0.32 moves it before Marlin's, and elsewhere."""
    elsewhere = Kernel(name, "humming", since, groups=groups, package="humming-kernels", note=note)
    return replace(elsewhere, since=HOPPER, below=BLACKWELL, release=(0, 32)), elsewhere


_CUTLASS_FP8 = Kernel("CutlassFP8ScaledMMLinearKernel", "cutlass", ADA)
_, _HUMMING_FP8 = _humming("HummingFP8ScaledMMLinearKernel")
_MARLIN_FP8 = Kernel("MarlinFP8ScaledMMLinearKernel", "marlin", 7.5)
# Below 8.9 vLLM takes these from a list of its own, Humming first. It logs no choice there; Marlin gives a warning.
_FP8_UNPACKED = tuple(
    replace(kernel, below=ADA, note=_NO_FP8) for kernel in (replace(_HUMMING_FP8, is_logged=False), _MARLIN_FP8)
)
_FP8_ON_REQUEST = (
    replace(_MARLIN_FP8, since=ADA, automatic=False, release=(0, 32), note=_UNPACKED),
    replace(_HUMMING_FP8, since=ADA, automatic=False, note=_UNPACKED),
)
_, _HUMMING_INT8 = _humming("HummingInt8ScaledMMLinearKernel", _UNPACKED)
_INT8 = (
    # vLLM still chooses it on Blackwell, where there are no INT8 products and the first one fails.
    Kernel("CutlassInt8ScaledMMLinearKernel", "cutlass", 7.5, below=BLACKWELL),
    Kernel("TritonInt8ScaledMMLinearKernel", "triton", 7.5, automatic=False),
    replace(_HUMMING_INT8, automatic=False),
)
# Machete is built for Hopper alone. The others' least capability is that of the quantization methods.
_MACHETE = Kernel("MacheteLinearKernel", "machete", HOPPER, BLACKWELL, groups=(64, 128), inputs=64, outputs=128)
_MARLIN = Kernel("MarlinLinearKernel", "marlin", 7.5, groups=(32, 64, 128))
_CONCH = Kernel("ConchLinearKernel", "conch", 8.0, automatic=False, groups=(128,), package="conch-triton-kernels")
_EXLLAMA = Kernel("ExllamaLinearKernel", "exllama", 7.5, dtypes=("float16",), outputs=8)
_TRITON = Kernel("TritonW4A16LinearKernel", "triton", 7.5, groups=(32, 64, 128, 256), outputs=8)
_HUMMING_FIRST, _HUMMING_LAST = _humming("HummingLinearKernel", groups=(16, 32, 64, 128, 256))
# Without products of the format Humming unpacks, but for MXFP4: its activations become 8-bit (humming/schema).
_HUMMING_NVFP4_FIRST, _HUMMING_NVFP4 = _humming("HummingNvFp4LinearKernel", _NO_FP4)
_HUMMING_MXFP4_FIRST, _HUMMING_MXFP4 = _humming("HummingMxFp4LinearKernel", _8_BITS, 8.0)
_HUMMING_MXFP8_FIRST, _HUMMING_MXFP8 = _humming("HummingMxfp8LinearKernel", _NO_MXFP8)
_CUTEDSL_NVFP4_WEIGHTS = Kernel("FlashInferCuteDslNvFp4W4A16LinearKernel", "flashinfer_cutedsl", BLACKWELL)

# Support of GPTQ's and AWQ's own layouts depends on Marlin, whichever kernel then computes.
_MARLIN_GROUPS = (32, 64, 128)
_AWQ_ITSELF = Kernel("AWQ", "", 7.5, note="AWQ's first kernel, slow: Marlin has none for this group size")
_DEEP_GEMM = Kernel("DeepGemmFp8BlockScaledMMKernel", "deep_gemm", HOPPER, dtypes=_BF16, inputs=128, outputs=64)
_BITSANDBYTES = Cpu("bitsandbytes", note="its own CPU code unpacks on every pass")
_BNB_PLUGIN, _GGUF_PLUGIN = ("vllm-bnb-plugin", (0, 32)), ("vllm-gguf-plugin", (0, 26))
_AMX_FP8 = Cpu("CPUFP8W8A8", ("amx_fp8",), emulated=True)
_AMX_FP8_BLOCK = Cpu("CPUFp8Block", ("amx_bf16", "amx_fp8"), note=f"{_UNPACKED} without AMX-FP8")
_INT4_CPU = Cpu("CPUWNA16", ("avx512f",), emulated=True)

# By `Scheme.served`.
SERVED: Mapping[str, ServingKernels] = {
    # FlashInfer and torch's own take one scale per tensor, or one per row: vLLM tries them in this order.
    "fp8_tensors": ServingKernels(
        (
            Kernel("FlashInferFP8ScaledMMLinearKernel", "flashinfer_cutlass", BLACKWELL),
            _CUTLASS_FP8,
            Kernel("PerTensorTorchFP8ScaledMMLinearKernel", "torch", ADA),
            *_FP8_UNPACKED,
            *_FP8_ON_REQUEST,
        ),
        cpu=_AMX_FP8,
    ),
    "fp8_channels": ServingKernels(
        (
            _CUTLASS_FP8,
            Kernel("ChannelWiseTorchFP8ScaledMMLinearKernel", "torch", ADA),
            *_FP8_UNPACKED,
            *_FP8_ON_REQUEST,
        ),
        # The only kernel that can be requested on a CPU.
        cpu=replace(_AMX_FP8, choice="torch"),
    ),
    "fp8_blocks": ServingKernels(
        (
            replace(
                _DEEP_GEMM,
                name="FlashInferFp8DeepGEMMDynamicBlockScaledKernel",
                choice="flashinfer_cutlass",
                below=BLACKWELL,
            ),
            _DEEP_GEMM,
            Kernel("CutlassFp8BlockScaledMMKernel", "cutlass", HOPPER),
            *_FP8_UNPACKED,
            # Of Ada's FP8 products vLLM knows Triton's alone for blocks, and tries Marlin first.
            replace(_MARLIN_FP8, since=ADA, release=(0, 32), note=f"{_UNPACKED}; serve.kernel=triton has FP8 products"),
            Kernel("TritonFp8BlockScaledMMKernel", "triton", ADA),
            Kernel(
                "BlockWiseTorchFP8ScaledMMLinearKernel", "torch", HOPPER, BLACKWELL, automatic=False, release=(0, 32)
            ),
            replace(_HUMMING_FP8, since=ADA, automatic=False, note=_UNPACKED),
        ),
        cpu=_AMX_FP8_BLOCK,
    ),
    "int8_products": ServingKernels(_INT8, cpu=Cpu("oneDNN", ("avx512_vnni", "amx_int8"), emulated=True)),
    # vLLM reads this scheme on Hopper alone.
    "int4_fp8": ServingKernels(
        (
            Kernel("CutlassW4A8LinearKernel", "cutlass", HOPPER, BLACKWELL, dtypes=_BF16, inputs=128, outputs=128),
            replace(_HUMMING_FIRST, note=_UNPACKED),
        )
    ),
    "int4": ServingKernels(
        (_MACHETE, _HUMMING_FIRST, _MARLIN, _CONCH, _EXLLAMA, _TRITON, _HUMMING_LAST),
        cpu=_INT4_CPU,
        own_groups=_MARLIN_GROUPS,
    ),
    "int4_with_zero_points": ServingKernels(
        (_MACHETE, _HUMMING_FIRST, _MARLIN, _CONCH, _TRITON, _HUMMING_LAST),
        cpu=_INT4_CPU,
        own_groups=_MARLIN_GROUPS,
        other_groups=(_AWQ_ITSELF,),
    ),
    "int8_weights": ServingKernels(
        (_MACHETE, _HUMMING_FIRST, _MARLIN, _CONCH, _EXLLAMA, _HUMMING_LAST),
        cpu=Cpu(emulated=True),
        own_groups=_MARLIN_GROUPS,
    ),
    "nf4": ServingKernels((Kernel("bitsandbytes", "", 7.0),), cpu=_BITSANDBYTES, plugin=_BNB_PLUGIN),
    "llm_int8": ServingKernels((Kernel("bitsandbytes", "", 7.5),), cpu=_BITSANDBYTES, plugin=_BNB_PLUGIN),
    "gguf": ServingKernels((Kernel("GGUF", "", 6.0),), cpu=Cpu(emulated=True), plugin=_GGUF_PLUGIN),
    "nvfp4": ServingKernels(
        (
            Kernel("FlashInferCuteDslNvFp4LinearKernel", "flashinfer_cutedsl", BLACKWELL, below=BLACKWELL_RTX),
            Kernel("FlashInferCutlassNvFp4LinearKernel", "flashinfer_cutlass", BLACKWELL),
            Kernel("CutlassNvFp4LinearKernel", "cutlass", BLACKWELL),
            _HUMMING_NVFP4_FIRST,
            Kernel("MarlinNvFp4LinearKernel", "marlin", 7.5, note=_NO_FP4),
            Kernel("FlashInferTrtllmNvFp4LinearKernel", "flashinfer_trtllm", BLACKWELL, automatic=False),
            Kernel("FlashInferCudnnNvFp4LinearKernel", "flashinfer_cudnn", BLACKWELL, automatic=False),
            Kernel("TorchNvFp4LinearKernel", "torch", BLACKWELL, BLACKWELL_RTX, automatic=False, release=(0, 32)),
            replace(_HUMMING_NVFP4, automatic=False),
        )
    ),
    "nvfp4_weights": ServingKernels(
        (
            replace(_CUTEDSL_NVFP4_WEIGHTS, below=BLACKWELL_RTX, release=(0, 32)),
            replace(_HUMMING_NVFP4_FIRST, note=""),
            Kernel("MarlinNvFp4LinearKernel", "marlin", 7.5),
            replace(_CUTEDSL_NVFP4_WEIGHTS, since=BLACKWELL_RTX, automatic=False, release=(0, 32)),
            replace(_HUMMING_NVFP4, automatic=False, note=""),
        )
    ),
    "mxfp8": ServingKernels(
        (
            Kernel("FlashInferCutedslMxfp8LinearKernel", "flashinfer_cutedsl", BLACKWELL, BLACKWELL_RTX),
            Kernel("FlashInferCutlassMxfp8LinearKernel", "flashinfer_cutlass", BLACKWELL),
            _HUMMING_MXFP8_FIRST,
            Kernel("MarlinMxfp8LinearKernel", "marlin", 7.5, note=_NO_MXFP8),
            replace(_HUMMING_MXFP8, automatic=False),
            Kernel(
                "FlashInferTrtllmMxfp8LinearKernel",
                "flashinfer_trtllm",
                BLACKWELL,
                BLACKWELL_RTX,
                automatic=False,
                dtypes=_BF16,
                release=(0, 32),
                inputs=256,
            ),
        )
    ),
    "mxfp4": ServingKernels(
        (
            Kernel("FlashInferMxFp4LinearKernel", "flashinfer_cutlass", BLACKWELL),
            _HUMMING_MXFP4_FIRST,
            Kernel("MarlinMxFp4LinearKernel", "marlin", 8.0, note=_NO_FP4),
            replace(_HUMMING_MXFP4, automatic=False),
        )
    ),
}
# CPU features, any one of which vLLM's kernels for quantized experts of a mixture need, by `Scheme.served`: those of
# `fused_moe/experts/cpu_moe.py` for x86, all by AMX. Formats that are not here have none on a CPU, nor a plugin.
CPU_EXPERTS: Mapping[str, tuple[str, ...]] = {
    "fp8_blocks": ("amx_bf16", "amx_fp8"),
    "int8_products": ("amx_int8",),
    "int4": ("amx_bf16", "amx_int8"),
}
KERNELS: Mapping[str, tuple[Kernel, ...]] = {name: SERVED[scheme.served].kernels for name, scheme in SCHEMES.items()}


def choices(scheme: str | None) -> tuple[str, ...]:
    """Return the values of `serve.kernel` for a number format, without `auto`."""
    return tuple(dict.fromkeys(kernel.choice for kernel in KERNELS.get(scheme or "", ()) if kernel.choice))


def title(kernel: Kernel) -> str:
    """Return a kernel's display name."""
    return TITLES.get(kernel.choice, kernel.name)


def is_asked_for(name: str, choice: str) -> bool:
    """Return whether a kernel named in vLLM's log is among those that a value of `serve.kernel` requests."""
    return any(name == kernel.name for kernels in KERNELS.values() for kernel in kernels if kernel.choice == choice)


def is_logged(scheme: str | None, choice: str, capability: float | None) -> bool:
    """Return whether vLLM's log names the kernel that a value of `serve.kernel` requests for a number format.

    Where it does not, vLLM has no other kernels to take instead: it exits if the requested one is not possible.
    """
    found = [
        kernel
        for kernel in KERNELS.get(scheme or "", ())
        if kernel.choice == choice and (capability is None or kernel.since <= capability < kernel.below)
    ]
    return not found or any(kernel.is_logged for kernel in found)
