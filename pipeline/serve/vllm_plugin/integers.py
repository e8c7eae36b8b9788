"""Quantized integers held as float32, and packed integers unpacked: torch only.

INT8 activations are rounded to nearest, ties to even, of x / s, as vLLM's CUDA kernels do: for a
fixed s by its reciprocal, saturating; for dynamic scales with s = max |row| / 127 and the factor
127 / max |row|, both in float32.

Weights of b bits are packed 32 / b to an int32, the first in the lowest bits, with the sign removed
by a zero point z (the middle of the range when symmetric):

    w = (q - z) * s

q - z is exact in any 16-bit type, and the product is rounded to the type of s once. These are the
values `compressed_tensors` decompresses to.
"""

import torch

_LARGEST = 127.0


def quantize_static(values: torch.Tensor, inverse_scale: torch.Tensor) -> torch.Tensor:
    """Return `values / scale` rounded to integers in [-128, 127], held in float32."""
    return torch.mul(values, inverse_scale).round_().clamp_(-_LARGEST - 1, _LARGEST)


def quantize_dynamic(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of `values` as integers in [-127, 127], held in float32, and their scales."""
    largest = values.abs().amax(dim=-1, keepdim=True).to(torch.float32)
    inverse = torch.div(_LARGEST, largest).masked_fill_(largest == 0, 0.0)
    return torch.mul(values, inverse).round_(), largest.div_(_LARGEST)


def unpack(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Return the unsigned integers, as int32, that are packed along one dimension of a matrix.

    Args:
        packed: Int32, two-dimensional.
        bits: Width of each integer; divides 32.
        dim: The packed dimension.
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    rows = packed if dim == 1 else packed.t()
    values = (rows.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    values = values.reshape(rows.shape[0], -1)
    return values if dim == 1 else values.t()


def dequantize(quantized: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | int) -> torch.Tensor:
    """Return the weights of shape (out, in) in the type of the scale.

    Args:
        quantized: Unsigned integers as int32, of shape (out, in).
        scale: Of shape (out, groups); equally many consecutive columns share a group.
        zero_point: One for all, or int32 of the scale's shape.
    """
    rows, columns = quantized.shape
    grouped = quantized.reshape(rows, scale.shape[1], columns // scale.shape[1])
    if isinstance(zero_point, torch.Tensor):
        zero_point = zero_point.unsqueeze(-1)
    centred = (grouped - zero_point).to(scale.dtype)
    return centred.mul_(scale.unsqueeze(-1)).reshape(rows, columns)
