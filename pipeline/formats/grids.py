"""Rounding to nearest in each kind of format, with scales computed here: weights (out, in) -> their images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.formats.elements import E4M3

if TYPE_CHECKING:
    import torch

# A weight, float32, and the input channels that share a scale (None: all of a row) -> its image.
Round = Callable[["torch.Tensor", "int | None"], "torch.Tensor"]
# The largest magnitude of each block, and the largest number of the format -> the blocks' scales.
Scales = Callable[["torch.Tensor", float], "torch.Tensor"]
TINY = 1e-12


def blocks(weight: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return (blocks, size): consecutive weights of a row that share a scale; whole rows if there is no group."""
    return weight.reshape(-1, size or weight.shape[1])


def symmetric(bits: int) -> Round:
    """Round to integers symmetric around zero."""

    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        own = blocks(weight, group)
        scale = own.abs().amax(1, keepdim=True).clamp_min(TINY) / (((1 << bits) - 1) / 2)
        limit = 1 << (bits - 1)
        return ((own / scale).round().clamp(-limit, limit - 1) * scale).reshape(weight.shape)

    return apply


def asymmetric(bits: int) -> Round:
    """Round to unsigned integers with a zero point."""

    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        own = blocks(weight, group)
        low = own.amin(1, keepdim=True).clamp_max(0)
        scale = (own.amax(1, keepdim=True).clamp_min(0) - low).clamp_min(TINY) / ((1 << bits) - 1)
        zero = (-low / scale).round()
        codes = ((own / scale).round() + zero).clamp(0, (1 << bits) - 1)
        return ((codes - zero) * scale).reshape(weight.shape)

    return apply


def fp8(per_tensor: bool) -> Round:
    """Round to E4M3 with one scale for the tensor or for each row."""

    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        return _to_e4m3(weight, weight.abs().amax() if per_tensor else weight.abs().amax(1, keepdim=True))

    return apply


def fp8_blocks(side: int) -> Round:
    """Round to E4M3 with one scale for each square block; those at the edges may be cut off."""

    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        import torch

        rows, columns = weight.shape
        padded = torch.nn.functional.pad(weight, (0, -columns % side, 0, -rows % side))
        squares = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
        image = _to_e4m3(squares, squares.abs().amax((1, 3), keepdim=True))
        return image.reshape(padded.shape)[:rows, :columns]

    return apply


def _to_e4m3(weight: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Round to E4M3 with scales that make `largest` its largest number."""
    import torch

    scale = largest.clamp_min(TINY) / E4M3.largest
    image: torch.Tensor = (weight / scale).to(torch.float8_e4m3fn).float() * scale
    return image


def exact(maximum: torch.Tensor, largest: float) -> torch.Tensor:
    """Return the scale that makes a block's maximum the largest number."""
    return maximum / largest


def power_of_two(maximum: torch.Tensor, largest: float) -> torch.Tensor:
    """Return OCP's scale: the maximum's power of two over the largest number's (OCP Microscaling, 2023, 6.3)."""
    return (maximum.log2().floor() - math.floor(math.log2(largest))).exp2()


def e4m3(maximum: torch.Tensor, largest: float) -> torch.Tensor:
    """Return NVIDIA's scale: an E4M3 number below a divisor that makes the largest block's scale the largest E4M3."""
    import torch

    divisor = E4M3.largest * largest / maximum.amax()
    code = (maximum / largest * divisor).to(torch.float8_e4m3fn).float()
    return code.clamp_min(E4M3.magnitudes[1]) / divisor


def table(numbers: tuple[float, ...], scales: Scales = exact) -> Round:
    """Round to the nearest entry of a table, with a scale for each block."""

    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        import torch

        known = torch.tensor(numbers, device=weight.device)
        middle = (known[1:] + known[:-1]) / 2
        own = blocks(weight, group)
        scale = scales(own.abs().amax(1, keepdim=True).clamp_min(TINY), numbers[-1])
        image: torch.Tensor = known[torch.bucketize(own / scale, middle)] * scale
        return image.reshape(weight.shape)

    return apply


def grouped(rule: Round, group: int | None) -> Round:
    """Return the same rounding with a fixed group size, whatever is requested."""
    return lambda weight, _: rule(weight, group)
