"""Installation of the emulations in one vLLM process, each independently and only where it applies.

Every step first checks that vLLM has the expected interface and warns otherwise; a failing step
leaves the others and vLLM itself working. Nothing heavy is imported on other platforms.
Where vLLM has an extension point it is used: `register_linear_kernel` for linear layers (whose list
is then reordered, since registration only appends) and `register_backend` for attention. Only the
missing quantize op and the missing BF16 product have none, and are replaced in `_custom_ops`.
"""

from collections.abc import Callable
from typing import Any

# Selected before the emulations, where the processor has what they need.
_NATIVE = (
    "CPUFP8W8A8ScaledMMLinearKernel",
    "ZentorchInt8ScaledMMLinearKernel",
    "ZentorchWNA16LinearKernel",
)

_installed = False


def install() -> None:
    """Install everything, once per process; a no-op on any platform but the CPU."""
    global _installed
    from vllm.platforms import current_platform

    if _installed or not current_platform.is_cpu():
        return
    _installed = True
    for what, step in (
        ("unfinished kernels", _unfinished_kernels),
        ("float32 products", _products),
        ("FP8 linear layers", _fp8_linear),
        ("INT8 linear layers", _int8_linear),
        ("integer weight-only layers", _weight_only_linear),
        ("the FP8 KV cache", _kv_cache),
        ("GGUF layers", _gguf_layers),
        ("bitsandbytes' log", _bitsandbytes_log),
    ):
        _guarded(what, step)


def _guarded(what: str, step: Callable[[], None]) -> None:
    from pipeline.serve.vllm_plugin import announce

    try:
        step()
    except Exception as error:  # this plugin must not break another vLLM
        announce.not_patched(what, f"{type(error).__name__}: {error}")


def _unfinished_kernels() -> None:
    from pipeline.serve.vllm_plugin import unfinished_kernels

    unfinished_kernels.remove()


def _products() -> None:
    from pipeline.serve.vllm_plugin import products

    products.install()


def _fp8_linear() -> None:
    from vllm.model_executor.kernels import linear

    from pipeline.serve.vllm_plugin.fp8_linear import EmulatedFp8LinearKernel, install_quantize_op

    _register(linear, linear._POSSIBLE_FP8_KERNELS, EmulatedFp8LinearKernel, "fp8")
    install_quantize_op()


def _int8_linear() -> None:
    from vllm.model_executor.kernels import linear

    from pipeline.serve.vllm_plugin.int8_linear import EmulatedInt8LinearKernel, OneDnnInt8LinearKernel

    for kernel in (EmulatedInt8LinearKernel, OneDnnInt8LinearKernel):
        _register(linear, linear._POSSIBLE_INT8_KERNELS, kernel, "int8")


def _weight_only_linear() -> None:
    from vllm.model_executor.kernels import linear

    from pipeline.serve.vllm_plugin.weight_only_linear import (
        DequantizedLinearKernel,
        let_8_bit_gptq_through,
        native_kernel_missing,
    )

    first = native_kernel_missing()
    _register(linear, linear._POSSIBLE_KERNELS, DequantizedLinearKernel, "mp", first=first)
    let_8_bit_gptq_through()


def _register(linear: Any, possible: dict[Any, list[type]], kernel: type, kind: str, first: bool = True) -> None:
    """Register a kernel for the CPU, before vLLM's own (but for native ones) or after them."""
    from vllm.platforms import PlatformEnum

    linear.register_linear_kernel(kernel, PlatformEnum.CPU, kind)
    kernels = possible[PlatformEnum.CPU]
    if first:
        kernels.remove(kernel)
        place = max((i + 1 for i, k in enumerate(kernels) if k.__name__ in _NATIVE), default=0)
        kernels.insert(place, kernel)


def _kv_cache() -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from pipeline.serve.vllm_plugin import kv_cache

    if kv_cache.wanted():
        backend = kv_cache.EmulatedCpuAttentionBackend
        register_backend(AttentionBackendEnum.CPU_ATTN, f"{backend.__module__}.{backend.__qualname__}")


def _gguf_layers() -> None:
    from pipeline.serve.vllm_plugin import gguf_layers

    gguf_layers.install()


def _bitsandbytes_log() -> None:
    """Silence the bitsandbytes warning, logged for every product, that activations become FP16."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
