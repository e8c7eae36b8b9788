"""INT8 W8A8 linear layers where the processor's own integer products saturate: exact, and faster.

Without VNNI instructions (AVX2-only processors, and AVX-512 before Cascade Lake) oneDNN adds pairs
of 8-bit products in 16 bits, saturating, as its documentation says under "Nuances of int8
Computations". A W8A8 checkpoint uses the whole range, so its sums come out wrong by more than the
quantization itself, and nothing warns of it. The native kernel is therefore tried with a product
whose value is known, and left in use where that comes out right.

Elsewhere the same integers are multiplied as BF16 or float32 values (those of -128 ... 127 are exact
in both, and their products in float32) with the arithmetic of `w8a8.py`. A float32 sum of such
products is exact up to 2^24, which takes more than 1,000 terms of the largest size to pass.

On AMX vLLM has a kernel of its own that rounds activations for each token, whatever the checkpoint
says, and takes no float32. Static scales, and float32 models, are given to oneDNN there.
"""

import functools

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.kernels.linear import Int8ScaledMMLinearKernel, Int8ScaledMMLinearLayerConfig
from vllm.model_executor.kernels.linear.scaled_mm.cpu import CPUInt8ScaledMMLinearKernel
from vllm.model_executor.layers.quantization.utils.w8a8_utils import convert_to_channelwise
from vllm.platforms import current_platform

from pipeline.serve.vllm_plugin import announce, integers
from pipeline.serve.vllm_plugin.log_lines import INT8_DYNAMIC, INT8_STATIC
from pipeline.serve.vllm_plugin.products import ExactProduct, freed
from pipeline.serve.vllm_plugin.w8a8 import W8A8Linear


@functools.cache
def native_product_is_exact() -> bool:
    """Tell whether oneDNN's INT8 product is right where pairs of products are largest."""
    terms, outputs = 64, 32
    weight = torch.full((outputs, terms), 127, dtype=torch.int8)
    scale = torch.ones(outputs, 1, dtype=torch.float32)
    product = ops.create_onednn_scaled_mm(weight.t(), scale, torch.float32, True, False, 2)
    adjustment = weight.sum(dim=1, dtype=torch.float32).reshape(1, -1)
    for rows in (1, 16):
        x = torch.full((rows, terms), 127, dtype=torch.int8)
        out = torch.empty(rows, outputs, dtype=torch.float32)
        row_scale = torch.ones(rows, 1, dtype=torch.float32)
        ops.onednn_scaled_mm(product, x, out, row_scale, None, adjustment, None)
        if not bool((out == 127.0 * 127.0 * terms).all()):
            return False
    return True


class OneDnnInt8LinearKernel(CPUInt8ScaledMMLinearKernel):  # type: ignore[misc]
    """INT8 W8A8 by oneDNN where vLLM would take its AMX kernel and should not."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Accept CPUs with AMX, whose oneDNN products are exact."""
        if not current_platform.is_cpu() or not torch.cpu._is_amx_tile_supported():
            return False, "requires a CPU with AMX"
        return native_product_is_exact(), None

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        """Accept what the AMX kernel would round otherwise, or refuse."""
        if c.is_static_input_scheme or torch.get_default_dtype() == torch.float32:
            return True, None
        return False, "vLLM's kernel for AMX serves dynamic scales"

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Give the weight to oneDNN."""
        self.linear_method = self._apply_weights_onednn
        self.process_weights_for_onednn(layer)


class EmulatedInt8LinearKernel(Int8ScaledMMLinearKernel):  # type: ignore[misc]
    """INT8 W8A8 with symmetric activations, static per tensor or dynamic per token."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Accept CPUs whose own INT8 product is wrong."""
        if not current_platform.is_cpu():
            return False, "requires a CPU"
        if native_product_is_exact():
            return False, "the processor's own INT8 products are exact"
        return True, None

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        """Accept symmetric activations."""
        if not c.input_symmetric:
            announce.not_patched("INT8 with zero points", "only symmetric activations are known")
            return False, "requires symmetric activations"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Turn the INT8 weight and the scales into a product, and free the weight."""
        weight_name, scale_name, input_name, *_ = self.layer_param_names
        weight: torch.Tensor = getattr(layer, weight_name).data
        scale = getattr(layer, scale_name).data
        widths = getattr(layer, "logical_widths", [])
        if len(widths) > 1 and not self.config.is_channelwise:
            scale = convert_to_channelwise(scale, widths)
        static: bool = self.config.is_static_input_scheme
        self._linear = W8A8Linear(
            ExactProduct(weight, torch.get_default_dtype()),
            scale,
            getattr(layer, input_name).data.max() if static else None,
            integers.quantize_static,
            integers.quantize_dynamic,
        )
        setattr(layer, weight_name, freed(weight))
        announce.emulated(INT8_STATIC if static else INT8_DYNAMIC)

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the layer's output for `x` of shape (..., in)."""
        return self._linear(x, bias, x.dtype)
