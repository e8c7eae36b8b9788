"""Matrix products with float32 accumulation on whatever this CPU has: one path for all formats.

`dense` gives weights to vLLM's own dispatcher of unquantized layers, so an emulated layer takes the
path, and the time, of a BF16 layer. `ExactProduct` is for operands whose values are exact in BF16:
it takes that path too where the processor multiplies BF16 numbers, with a BF16 result; elsewhere it
multiplies in float32 and returns float32.

On processors with neither AVX-512 nor AMX, oneDNN has no BF16 product at all, and vLLM falls back
to torch's, which is 3 to 7 times slower than a float32 product there; with AVX-512 but without its
BF16 instructions, oneDNN emulates the product, up to 5 times slower. `install` therefore lets
oneDNN multiply the same BF16 values in float32: the products are exact, the accumulation is in
float32 as before, and the sum is rounded to BF16 once. Weights take twice the memory, so
`PIPELINE_FLOAT32_PRODUCTS=never` turns it off.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

from pipeline.serve.vllm_plugin import announce

SWITCH = "PIPELINE_FLOAT32_PRODUCTS"
_MARK = "_pipeline_float32"
# Instructions of x86 that multiply a type, by the names of `torch.cpu.get_capabilities`.
_INSTRUCTIONS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}

Linear = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@functools.cache
def _vllm_create() -> Any:
    """Return vLLM's own maker of oneDNN products, whether or not it has been replaced since."""
    return getattr(ops.create_onednn_mm, "__wrapped__", ops.create_onednn_mm)


@functools.cache
def is_native(dtype: torch.dtype) -> bool:
    """Return True if oneDNN multiplies this type with instructions of this processor.

    Where the instructions are not known (other architectures, an older torch), a small product is tried.
    """
    if not getattr(ops, "_supports_onednn", False):
        return dtype == torch.float32
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    needed = _INSTRUCTIONS.get(dtype, ()) if known.get("architecture") == "x86_64" else ()
    if needed and not any(map(known.get, needed)):
        return False
    try:
        _vllm_create()(torch.zeros(32, 32, dtype=dtype).t(), 1)
    except RuntimeError:
        return False
    return True


def _zentorch_serves() -> bool:
    """Tell whether vLLM will use AMD's zentorch for unquantized layers, before it asks oneDNN."""
    from vllm.platforms import current_platform

    is_zen = getattr(current_platform, "is_zen_cpu", lambda: False)
    return bool(is_zen()) and hasattr(torch.ops.zentorch, "zentorch_linear_unary")


def dense(weight: torch.Tensor) -> Linear:
    """Return the function `(x, bias) -> x @ weight.T + bias` that vLLM uses for such a layer.

    Args:
        weight: Of shape (out, in), in the model's type.
    """
    layer: Any = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    # On AMX, small products take a bias in float32: vLLM converts that of the layer, and so says what it wants.
    layer.bias = torch.nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    wanted = layer.bias.dtype

    def apply(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = layer.cpu_linear(x, layer.weight, None if bias is None else bias.to(wanted))
        return result

    return apply


def freed(parameter: torch.Tensor) -> torch.nn.Parameter:
    """Return an empty stand-in for a layer's parameter that is not needed any more."""
    return torch.nn.Parameter(torch.empty(0, dtype=parameter.dtype), requires_grad=False)


class ExactProduct:
    """The product `x @ weight.T` for operands that are exact in BF16.

    Attributes:
        dtype: What `x` has to be, and what comes back: BF16 where both the model and the processor
            are, then the sum is rounded to BF16 once; else float32, with no rounding but that of
            the accumulation.
    """

    def __init__(self, weight: torch.Tensor, model_dtype: torch.dtype) -> None:
        """Pack the weight.

        Args:
            weight: Values exact in BF16, in any type, of shape (out, in).
            model_dtype: The type of the layer's results.
        """
        native = _zentorch_serves() or is_native(torch.bfloat16)
        self.dtype = torch.bfloat16 if native and model_dtype == torch.bfloat16 else torch.float32
        self._linear = dense(weight.to(self.dtype))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product, of shape (rows, out), for `x` of shape (rows, in)."""
        return self._linear(x.to(self.dtype), None)


def install() -> None:
    """Let oneDNN multiply BF16 and FP16 values in float32 where it cannot do so itself.

    Whether it can is found out when a layer asks, never here: vLLM may fork after loading its
    plugins, and a process that has already used OpenMP threads must not be forked.
    """
    if os.environ.get(SWITCH, "auto") == "never" or hasattr(ops.create_onednn_mm, "__wrapped__"):
        return
    if not getattr(ops, "_supports_onednn", False):
        return
    create, multiply = ops.create_onednn_mm, ops.onednn_mm

    @functools.wraps(create)
    def create_product(weight: torch.Tensor, primitive_cache_size: int = 128) -> Any:
        if weight.dtype not in (torch.bfloat16, torch.float16) or is_native(weight.dtype):
            return create(weight, primitive_cache_size)
        handler = create(weight.to(torch.float32), primitive_cache_size)
        setattr(handler, _MARK, True)
        announce.float32_products(str(weight.dtype).removeprefix("torch."))
        return handler

    @functools.wraps(multiply)
    def take_product(dnnl_handler: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not getattr(dnnl_handler, _MARK, False):
            result: torch.Tensor = multiply(dnnl_handler, x, bias)
            return result
        wide_bias = None if bias is None else bias.to(torch.float32)
        result = multiply(dnnl_handler, x.to(torch.float32), wide_bias)
        return result.to(x.dtype)

    ops.create_onednn_mm = create_product
    ops.onednn_mm = take_product
