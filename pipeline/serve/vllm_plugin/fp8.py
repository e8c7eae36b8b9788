"""Rounding to the 8-bit floating-point grids, held as float32: exact, vectorised, torch only.

A format with `m` mantissa bits, smallest normal exponent `e_min` and largest value `v_max` (OCP
8-bit Floating Point Specification, revision 1.0; Micikevicius et al. 2022, "FP8 Formats for Deep
Learning", arXiv 2209.05433) represents the multiples of a step that depends on the binade:

    step(x) = 2^(max(floor(log2 |x|), e_min) - m)

E4M3 (no infinities) and E5M2 have those of `pipeline.formats.elements`.

Rounding to a multiple of a power of two, ties to even, is what float32 addition does to the lower
addend. With M = 1.5 * 2^23 * step(x), the unit in the last place of any number in [2^23 step, 2^24
step] is step(x), and x + M lies there because |x| < 2^(m+1) step(x) in the worst case, so that

    round(x) = (x + M) - M

has its one rounding in the addition, to nearest and ties to even on the multiple itself (M / step
is even); the subtraction is exact. The binade 2^floor(log2 |x|) is the bit pattern of x with sign
and mantissa masked out. This is six vector operations, a few times faster on AVX2 than torch's
conversion to `float8_e4m3fn` and back, and gives the same values (see the tests). Only the sign of
a zero may differ, which no product and no cache can tell; `fake_quantize` restores it.

Every E4M3 and E5M2 value is exact in BF16 and float32, and so is every product of two of them in
float32 (at most 8 significant bits).
"""

from dataclasses import dataclass

import torch

from pipeline.formats import elements

_EXPONENT_MASK = 0x7F800000  # of an IEEE 754 binary32
_FLOAT32_MANTISSA_BITS = 23


@dataclass(frozen=True)
class Fp8Format:
    """An 8-bit floating-point format.

    Attributes:
        name: As vLLM and torch write it, such as `e4m3`.
        mantissa_bits: Explicit mantissa bits.
        min_exponent: Exponent of the smallest normal number.
        max_value: Largest finite value; larger ones saturate to it.
        dtype: The torch type with these values.
    """

    name: str
    mantissa_bits: int
    min_exponent: int
    max_value: float
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, element: elements.Element, dtype: torch.dtype) -> "Fp8Format":
        """Name a floating-point element and the torch type that has its values."""
        assert element.mantissa is not None
        return cls(name, element.mantissa, element.min_exponent, element.largest, dtype)


E4M3 = Fp8Format.of("e4m3", elements.E4M3, torch.float8_e4m3fn)
E5M2 = Fp8Format.of("e5m2", elements.E5M2, torch.float8_e5m2)

# vLLM's CUDA op does not let a dynamic scale fall below this (csrc/quantization/w8a8/fp8).
MIN_DYNAMIC_SCALE = 1.0 / (E4M3.max_value * 512.0)


def round_to_grid_(values: torch.Tensor, fmt: Fp8Format) -> torch.Tensor:
    """Round float32 `values` in place to the nearest multiple of their step, ties to even.

    Does not saturate: values beyond `fmt.max_value` have to be clamped by the caller, unless they
    are so close that they round back to it. Zeros may lose their sign.
    """
    binade = torch.bitwise_and(values.view(torch.int32), _EXPONENT_MASK).view(torch.float32)
    binade.clamp_(min=2.0**fmt.min_exponent)
    magic = 1.5 * 2.0 ** (_FLOAT32_MANTISSA_BITS - fmt.mantissa_bits)
    values.add_(binade, alpha=magic)
    return values.sub_(binade, alpha=magic)


def fake_quantize(values: torch.Tensor, fmt: Fp8Format = E4M3) -> torch.Tensor:
    """Return finite `values` as float32, rounded to the format's grid and saturated at its ends.

    Equals `values.clamp(-v_max, v_max).to(fmt.dtype).to(torch.float32)`, signs of zeros included.
    """
    clamped = values.to(torch.float32).clamp(-fmt.max_value, fmt.max_value)
    rounded = round_to_grid_(clamped.clone(), fmt)
    return torch.copysign(rounded, clamped)


def quantize_static(values: torch.Tensor, inverse_scale: torch.Tensor, fmt: Fp8Format = E4M3) -> torch.Tensor:
    """Return `values / scale` on the grid, as float32, for a scale fixed beforehand.

    Multiplies by the reciprocal in float32 and saturates, as vLLM's CUDA op for static scales does.

    Args:
        values: Activations of any floating-point type.
        inverse_scale: Float32 of at least one dimension, 1 / scale, broadcastable to `values`.
        fmt: The format.
    """
    scaled = torch.mul(values, inverse_scale)
    scaled.clamp_(-fmt.max_value, fmt.max_value)
    return round_to_grid_(scaled, fmt)


def quantize_dynamic(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of `values` on the E4M3 grid, as float32, with each row's scale.

    scale = max(max |row| / v_max, MIN_DYNAMIC_SCALE), and the row is divided by it, both in float32,
    as vLLM's CUDA op for dynamic scales does. No element exceeds the largest by more than a
    rounding, which the grid takes back, so there is nothing to saturate.
    """
    largest = values.abs().amax(dim=-1, keepdim=True).to(torch.float32)
    scale = largest.div_(E4M3.max_value).clamp_(min=MIN_DYNAMIC_SCALE)
    return round_to_grid_(torch.div(values, scale), E4M3), scale
