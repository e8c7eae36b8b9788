"""Weight-only integer layers (W4A16, W8A16; native AWQ and GPTQ) for CPUs without a kernel of their own.

vLLM's CPU kernel for packed integer weights is for 4 bits and compiled for AVX-512 only, but its
selection checks neither the processor nor the library: elsewhere a model loads and crashes at its first
token. This kernel unpacks the weights to the model's type at load (see `integers.py`) and multiplies
like an unquantized layer. It saves no memory. It precedes vLLM's kernel where that has no code, and
otherwise follows it, for the widths that vLLM does not support (W8A16).

Layers of the formats `awq` and `gptq` use the same kernel; vLLM has already put AWQ's integers into
the common order. For `gptq` it first checks for support by Marlin, a GPU kernel; on CPUs that check
accepts only 4 bits.
"""

import functools
import inspect
from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearKernel, MPLinearLayerConfig
from vllm.platforms import current_platform
from vllm.scalar_type import scalar_types

from pipeline.serve.vllm_plugin import announce
from pipeline.serve.vllm_plugin.integers import dequantize, unpack
from pipeline.serve.vllm_plugin.log_lines import integer_weights
from pipeline.serve.vllm_plugin.products import Linear, dense, freed


def native_kernel_missing() -> bool:
    """Tell whether vLLM's compiled library lacks the 4-bit product on this processor."""
    return not hasattr(torch.ops._C, "cpu_gemm_wna16")


def let_8_bit_gptq_through() -> None:
    """Make vLLM accept 8-bit GPTQ layers under the conditions of 4-bit ones: symmetry and group sizes."""
    from vllm.model_executor.layers.quantization import auto_gptq

    original = auto_gptq.verify_marlin_supported
    if hasattr(original, "__wrapped__"):
        return
    parameters = list(inspect.signature(original).parameters)
    if parameters != ["quant_type", "group_size", "has_zp"]:
        announce.not_patched("8-bit GPTQ", f"the parameters of verify_marlin_supported are {parameters}")
        return

    @functools.wraps(original)
    def verify_marlin_supported(quant_type: Any, group_size: int, has_zp: bool = False) -> None:
        original(scalar_types.uint4b8 if quant_type == scalar_types.uint8b128 else quant_type, group_size, has_zp)

    auto_gptq.verify_marlin_supported = verify_marlin_supported


class DequantizedLinearKernel(MPLinearKernel):  # type: ignore[misc]
    """Integer weights of a width that divides 32, unpacked to the model's type at load."""

    @classmethod
    def get_min_capability(cls) -> int:
        """Ask for no GPU capability."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Accept unsigned packed integers with 16-bit or float32 activations."""
        if not current_platform.is_cpu():
            return False, "requires a CPU"
        kind = c.weight_type
        if not kind.is_integer() or kind.is_signed() or 32 % kind.size_bits:
            return False, f"cannot unpack {kind}"
        if c.act_type not in (torch.bfloat16, torch.float16, torch.float32):
            return False, f"cannot multiply with {c.act_type}"
        if c.group_size > 0 and c.partition_weight_shape[0] % c.group_size:
            return False, f"groups of {c.group_size} do not divide the input"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Unpack and dequantize the weights, and free the packed ones."""
        kind = self.config.weight_type
        columns, rows = self.config.partition_weight_shape

        def unpacked(parameter: Any) -> torch.Tensor:
            values = unpack(parameter.data, kind.size_bits, parameter.packed_dim)
            return values.t() if parameter.output_dim == 1 else values

        quantized = unpacked(getattr(layer, self.w_q_name))[:rows, :columns]
        scale = getattr(layer, self.w_s_name)
        scale = (scale.data.t() if scale.output_dim == 1 else scale.data).contiguous()
        zero_point: torch.Tensor | int = kind.bias if kind.has_bias() else 0
        if self.config.zero_points:
            zero_point = unpacked(getattr(layer, self.w_zp_name))[:rows]
        weight = dequantize(quantized, scale, zero_point)
        self._linear: Linear = dense(weight.to(self.config.act_type))
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            if name is not None and getattr(layer, name, None) is not None:
                setattr(layer, name, freed(getattr(layer, name)))
        announce.emulated(integer_weights(kind.size_bits))

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the layer's output for `x` of shape (..., in)."""
        return self._linear(x, bias)
