"""Decoding of packed weights: each format's integers unpacked and scaled, in pure torch.

The formats differ in the orientation of the matrix, the order of integers in an int32, and the zero point:

* compressed-tensors `pack-quantized`: (out, in), eight 4-bit or four 8-bit integers to an int32 along the inputs, the
  first in the lowest bits, the sign removed by 2^(bits-1); zero points packed alike, along the outputs.
* AWQ (`quant_method: awq`, version `gemm`): (in, out), packed along the outputs in the order 0 2 4 6 1 3 5 7.
* GPTQ (`quant_method: gptq`): (in, out), packed along the inputs; zero points packed along the outputs, and one too
  small (`checkpoint_format: gptq`; `gptq_v2` stores them as they are). `g_idx` names each input's group.
* compressed-tensors `int-quantized`, `float-quantized`, `mxfp8-quantized`: the 8-bit numbers themselves; scales of
  tensors, channels, groups, or square blocks. DeepSeek's `fp8` is the last of these, with the scales called inverse.
* compressed-tensors `nvfp4-pack-quantized`, `mxfp4-pack-quantized`: (out, in), two FP4 numbers a byte along the inputs,
  the first in the low bits; scales of blocks are FP8 E4M3 numbers below a divisor of the tensor, or powers of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.formats.elements import E2M1, E8M0_BIAS

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
# Position of each of eight output channels in AWQ's int32.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
# What DeepSeek's FP8 weights are multiplied by, in spite of its name.
DEEPSEEK_SCALE = "weight_scale_inv"


def unpack(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Return as int32 the unsigned integers packed along one dimension of an int32 matrix, lowest bits first.

    Raises:
        ValueError: if no integers of so many bits are packed into 32.
    """
    import torch

    if not 0 < bits <= 32:
        raise ValueError(f"integers of {bits} bits are not packed into 32")

    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    rows = packed if dim == 1 else packed.t()
    values = ((rows.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(1)
    return values if dim == 1 else values.t()


def as_they_are(tensors: Tensors, bits: int) -> torch.Tensor:
    """Decode 8-bit numbers with a scale for all, for each output channel, each group of one, or each square block."""
    weight, scale = tensors["weight"].float(), _factors(tensors["weight_scale"])
    scale = scale if scale.dim() == 2 else scale.reshape(-1, 1)
    (rows, columns), (bands, groups) = weight.shape, scale.shape
    if 1 < bands < rows:
        # Blocks divide the inputs, and the last band of outputs may be cut off.
        scale = scale.repeat_interleave(columns // groups, dim=0)[:rows]
    return weight * _spread(scale, columns)


def fp8_blocks(tensors: Tensors, bits: int) -> torch.Tensor:
    """Decode FP8 numbers with a scale for each square block, as DeepSeek stores them."""
    return as_they_are({"weight": tensors["weight"], "weight_scale": tensors[DEEPSEEK_SCALE]}, bits)


def pack_quantized(tensors: Tensors, bits: int) -> torch.Tensor:
    """Decode integers of compressed-tensors."""
    import torch

    rows, columns = (int(n) for n in tensors["weight_shape"])
    values = unpack(tensors["weight_packed"], bits, 1)[:, :columns]
    scale = tensors["weight_scale"].float()
    scale = scale if scale.dim() == 2 else scale.reshape(-1, 1)
    zero = torch.full_like(scale, 1 << (bits - 1))
    if "weight_zero_point" in tensors:
        zero = unpack(tensors["weight_zero_point"], bits, 0)[:rows].float()
    if "weight_g_idx" in tensors and bool((tensors["weight_g_idx"] >= 0).all()):
        order = tensors["weight_g_idx"].long()
        return (values - zero[:, order]) * scale[:, order]
    return (values - _spread(zero, columns)) * _spread(scale, columns)


def fp4(tensors: Tensors, bits: int) -> torch.Tensor:
    """Decode FP4 numbers of compressed-tensors, with scales of either kind.

    E2M1's codes are 0 to 7 in the order of the numbers; the fourth bit is the sign (OCP Microscaling, 2023, 5.3.3).
    """
    import torch

    packed, scale = tensors["weight_packed"], tensors["weight_scale"]
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).long()
    values = torch.tensor([*E2M1.magnitudes, *(-number for number in E2M1.magnitudes)], device=codes.device)[codes]
    factors = _factors(scale)
    if scale.dtype is not torch.uint8:
        factors = factors / tensors["weight_global_scale"].float()
    return values * _spread(factors, values.shape[1])


def awq(tensors: Tensors, bits: int) -> torch.Tensor:
    """Decode AWQ's interleaved integers."""
    if bits != 4:
        raise ValueError(f"AWQ's order is one of 4-bit integers, not of {bits}")

    def ordered(packed: torch.Tensor) -> torch.Tensor:
        values = unpack(packed, bits, 1)
        return values.reshape(values.shape[0], -1, 8)[:, :, list(AWQ_PLACES)].flatten(1)

    values, zero, scale = ordered(tensors["qweight"]).t(), ordered(tensors["qzeros"]).t(), tensors["scales"].t().float()
    columns = values.shape[1]
    return (values - _spread(zero, columns)) * _spread(scale, columns)


def gptq(tensors: Tensors, bits: int, stored_too_small: bool = True) -> torch.Tensor:
    """Decode GPTQ's integers; the common format stores zero points minus one."""
    values = unpack(tensors["qweight"], bits, 0).t()
    zero = unpack(tensors["qzeros"], bits, 1).t()
    if stored_too_small:
        zero = (zero + 1) & ((1 << bits) - 1)  # a zero point of 0 is stored as the largest integer
    scale, columns = tensors["scales"].t().float(), values.shape[1]
    if "g_idx" not in tensors:
        return (values - _spread(zero, columns)) * _spread(scale, columns)
    order = tensors["g_idx"].long()
    return (values - zero[:, order]) * scale[:, order]


def _factors(scale: torch.Tensor) -> torch.Tensor:
    """Return stored scales as float32: numbers, or E8M0 codes of powers of two."""
    import torch

    return torch.exp2(scale.float() - E8M0_BIAS) if scale.dtype is torch.uint8 else scale.float()


def _spread(groups: torch.Tensor, columns: int) -> torch.Tensor:
    """Expand a column for each group to a column for each input; a single one broadcasts."""
    if groups.shape[1] == 1:
        return groups
    return groups.repeat_interleave(columns // groups.shape[1], dim=1)
