"""FP8 W8A8 linear layers for vLLM on a CPU: the arithmetic of `w8a8.py` on the grid of `fp8.py`.

vLLM has two kernels of its own for this on a CPU and both fall short: torch's `_scaled_mm` is some
25 times slower than BF16, and the AMX kernel for per-tensor scales leaves the activations
unquantized (W8A16), so its results are better than the format's. This one goes before both and
behind the native W8A8 kernel, which needs AMX-FP8.

When q, k and v (or gate and up) with per-tensor scales are fused, vLLM requantizes the weights to the
largest of the scales, on every platform. That stays as it is, so that a CPU measures what a GPU
serves; the op it needs is missing on a CPU and is replaced below.
"""

import functools
import inspect
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.kernels.linear import FP8ScaledMMLinearKernel, FP8ScaledMMLinearLayerConfig
from vllm.platforms import current_platform

from pipeline.serve.vllm_plugin import announce, fp8
from pipeline.serve.vllm_plugin.log_lines import FP8_DYNAMIC, FP8_STATIC
from pipeline.serve.vllm_plugin.products import ExactProduct, freed
from pipeline.serve.vllm_plugin.w8a8 import W8A8Linear


class EmulatedFp8LinearKernel(FP8ScaledMMLinearKernel):  # type: ignore[misc]
    """FP8 W8A8: per-tensor or per-channel weights, static per-tensor or dynamic per-token inputs."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Accept any CPU."""
        return (True, None) if current_platform.is_cpu() else (False, "requires a CPU")

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        """Accept the scales that llm-compressor's FP8 and FP8_DYNAMIC schemes have."""
        weight, activation = c.weight_quant_key, c.activation_quant_key
        if weight.dtype != torch.float8_e4m3fn or activation.dtype != torch.float8_e4m3fn:
            return False, "requires E4M3 weights and activations"
        shape = weight.scale.group_shape
        if not (shape.is_per_tensor() or shape.is_per_channel()):
            return False, "requires per-tensor or per-channel weight scales"
        shape = activation.scale.group_shape
        if activation.scale.static and shape.is_per_tensor():
            return True, None
        if not activation.scale.static and shape.is_per_token():
            return True, None
        return False, "requires static per-tensor or dynamic per-token activation scales"

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Turn the E4M3 weight and the scales into a product, and free the weight."""
        weight_name, scale_name, input_name, _ = self.layer_param_names
        weight: torch.Tensor = getattr(layer, weight_name).data.t()  # vLLM holds (in, out)
        static: bool = self.config.activation_quant_key.scale.static
        self._linear = W8A8Linear(
            ExactProduct(weight, self.config.out_dtype),
            getattr(layer, scale_name).data,
            getattr(layer, input_name).data if static else None,
            fp8.quantize_static,
            fp8.quantize_dynamic,
        )
        setattr(layer, weight_name, freed(weight))
        announce.emulated(FP8_STATIC if static else FP8_DYNAMIC)

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the layer's output for `x` of shape (..., in)."""
        return self._linear(x, bias, self.config.out_dtype)

    def apply_scaled_mm(self, **kwargs: Any) -> torch.Tensor:
        """Never called: `apply_weights` does everything."""
        raise NotImplementedError


def _op_is_placeholder(name: str) -> bool:
    """Tell whether vLLM's compiled library only declares this op, without arguments or code."""
    op = getattr(torch.ops._C, name, None)
    return op is None or not op.default._schema.arguments


def install_quantize_op() -> None:
    """Replace vLLM's FP8 quantize op on CPU tensors by plain torch, where it has no code for it."""
    original = ops.scaled_fp8_quant
    if hasattr(original, "__wrapped__") or not _op_is_placeholder("static_scaled_fp8_quant"):
        return
    parameters = list(inspect.signature(original).parameters)
    if parameters[:3] != ["input", "scale", "num_token_padding"]:
        announce.not_patched("scaled_fp8_quant", f"its parameters are {parameters}")
        return

    @functools.wraps(original)
    def scaled_fp8_quant(
        input: torch.Tensor,
        scale: torch.Tensor | None = None,
        num_token_padding: int | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        by_tensor = scale is not None and scale.numel() == 1
        by_row = scale is None and bool(others.get("use_per_token_if_dynamic"))
        unusual = num_token_padding or any(others.get(name) is not None for name in ("scale_ub", "output"))
        if input.device.type != "cpu" or unusual or not (by_tensor or by_row):
            result: tuple[torch.Tensor, torch.Tensor] = original(input, scale, num_token_padding, **others)
            return result
        if scale is None:
            grid, scale = fp8.quantize_dynamic(input)
        else:
            grid = fp8.quantize_static(input, scale.to(torch.float32).reshape(1, 1).reciprocal())
        return grid.to(torch.float8_e4m3fn), scale

    ops.scaled_fp8_quant = scaled_fp8_quant
