"""How far rounding to nearest moves a weight in each number format: the yardstick for what an engine wrote.

The error of a weight W and its quantized image V is the relative Frobenius norm |W - V| / |W|. For rounding to nearest
it follows from the format alone (for b bits and a step s about s / sqrt(12) for each weight), so it is computed here
from the BF16 weight with scales of its own. What an engine wrote may be worse by a factor: algorithms that compensate
errors (GPTQ) or weigh them (AWQ, AutoRound) accept larger ones on the weights to gain on the outputs. A zero point that
is off by one makes sqrt(1 + 12) = 3.6 times the error, a wrong order far more.

A wrong scale may hide below such a factor, so the factor f between a group of weights w and its image v is looked at,
too: f = <w, v> / <w, w>. Errors that know nothing of the weights leave f within e / sqrt(n) of 1 for n weights in a
group and an error of e. Rounding to nearest is at 0.6 to 2.1 times of that, clipped weights (AWQ, AutoRound) at up to
2.3; scales of the next channel make 6.7 times and more. Rows of thousands of weights average that out and leave a bias:
the format's own, for which rounding to nearest is the yardstick, and that of engines which divide by the scale in BF16,
where a quotient is off by up to 2^-9 and falls halfway between two FP8 numbers once in sixteen times (.0026 is seen in
FP8 checkpoints of 4,096 channels, of which .0007 are FP8's).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from pipeline.errors import UnknownFormat

# SmoothQuant and AWQ round to nearest what they have rescaled; AWQ's own project clips the largest weights before that.
TOLERANCE = {"rtn": 1.25, "smoothquant": 1.25, "awq": 1.5}
# Rounding that looks at data may trade errors of weights for errors of outputs.
TOLERANCE_WITH_DATA = 3.0
TOLERANCE_OF_FACTORS = 4.0
TOLERANCE_OF_BIAS = 1.5
# BF16 keeps eight bits of a quotient: half a unit in the last place.
BF16_QUOTIENT = 2.0**-9
# FP8 E4M3's and FP4 E2M1's largest numbers: Micikevicius et al., 2022, table 1; OCP Microscaling formats, 2023, 5.3.3.
E4M3, E2M1 = 448.0, 6.0
# The sixteen numbers of NF4: Dettmers et al., "QLoRA", 2023, appendix E.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
FP4 = (-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def relative_error(original: torch.Tensor, image: torch.Tensor) -> float:
    """|original - image| / |original|; infinite where the image holds what is not finite."""
    error = float((original - image).norm() / original.norm())
    return error if error == error else float("inf")


def factor_error(original: torch.Tensor, image: torch.Tensor, group: int | None) -> float:
    """How far the factors between groups of weights and their images are from 1, as rms over the groups."""
    weights, images = _blocks(original, group), _blocks(image, group)
    squares = weights.square().sum(1)
    factors = (weights * images).sum(1)[squares > 0] / squares[squares > 0]
    error = float((factors - 1).square().mean().sqrt())
    return error if error == error else math.inf


def rounded(weight: torch.Tensor, scheme: str, group: int | None) -> torch.Tensor:
    """A weight of shape (out, in), float32, rounded to the nearest numbers of a format.

    Raises:
        UnknownFormat: on a format that there is not.
    """
    if scheme not in _ROUND:
        raise UnknownFormat(f"how {scheme} rounds")
    return _ROUND[scheme](weight, group)


class Limits(NamedTuple):
    """What a format and an algorithm explain of a weight's two errors."""

    error: float
    factor_error: float


def limits(
    weight: torch.Tensor, scheme: str, group: int | None, algorithm: str, scale: torch.Tensor | float = 1.0
) -> Limits:
    """The errors that a weight may have in this format when it was rounded by this algorithm.

    Args:
        weight: BF16's, of shape (out, in).
        scheme: the format.
        group: input channels that share a scale.
        algorithm: how it was rounded.
        scale: what each weight was multiplied with before it was rounded, to be divided by again.
    """
    image = rounded(weight * scale, scheme, group) / scale
    nearest = relative_error(weight, image)
    if not math.isfinite(nearest):
        # Factors that are no numbers explain nothing.
        return Limits(0.0, 0.0)
    error = nearest * TOLERANCE.get(algorithm, TOLERANCE_WITH_DATA)
    by_chance = TOLERANCE_OF_FACTORS * error / math.sqrt(_blocks(weight, group).shape[1])
    bias = TOLERANCE_OF_BIAS * factor_error(weight, image, group)
    return Limits(error, max(by_chance, bias) + BF16_QUOTIENT)


def _blocks(weight: torch.Tensor, size: int | None) -> torch.Tensor:
    """(blocks, size): consecutive weights of a row that share a scale; a whole row where there is no group."""
    return weight.reshape(-1, size or weight.shape[1])


def _symmetric(bits: int) -> Callable[[torch.Tensor, int | None], torch.Tensor]:
    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        blocks = _blocks(weight, group)
        scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / (((1 << bits) - 1) / 2)
        limit = 1 << (bits - 1)
        return ((blocks / scale).round().clamp(-limit, limit - 1) * scale).reshape(weight.shape)

    return apply


def _asymmetric(bits: int) -> Callable[[torch.Tensor, int | None], torch.Tensor]:
    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        blocks = _blocks(weight, group)
        low = blocks.amin(1, keepdim=True).clamp_max(0)
        scale = (blocks.amax(1, keepdim=True).clamp_min(0) - low).clamp_min(1e-12) / ((1 << bits) - 1)
        zero = (-low / scale).round()
        codes = ((blocks / scale).round() + zero).clamp(0, (1 << bits) - 1)
        return ((codes - zero) * scale).reshape(weight.shape)

    return apply


def _fp8(per_tensor: bool) -> Callable[[torch.Tensor, int | None], torch.Tensor]:
    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        largest = weight.abs().amax() if per_tensor else weight.abs().amax(1, keepdim=True)
        scale = largest.clamp_min(1e-12) / E4M3
        image: torch.Tensor = (weight / scale).to(torch.float8_e4m3fn).float() * scale
        return image

    return apply


def _table(
    numbers: tuple[float, ...], largest: float, powers_of_two: bool = False
) -> Callable[[torch.Tensor, int | None], torch.Tensor]:
    def apply(weight: torch.Tensor, group: int | None) -> torch.Tensor:
        table = torch.tensor(numbers, device=weight.device)
        middle = (table[1:] + table[:-1]) / 2
        blocks = _blocks(weight, group)
        maximum = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
        # OCP's scales: the maximum's power of two over the largest number's (OCP Microscaling formats, 2023, 6.3).
        scale = torch.exp2(maximum.log2().floor() - 2) if powers_of_two else maximum / largest
        image: torch.Tensor = table[torch.bucketize(blocks / scale, middle)] * scale
        return image.reshape(weight.shape)

    return apply


_ROUND: dict[str, Callable[[torch.Tensor, int | None], torch.Tensor]] = {
    "FP8": _fp8(per_tensor=True),
    "FP8_DYNAMIC": _fp8(per_tensor=False),
    "W8A8": _symmetric(8),
    "W8A8_STATIC": _symmetric(8),
    "W4A16": _symmetric(4),
    "W4A16_ASYM": _asymmetric(4),
    "W8A16": _symmetric(8),
    "NF4": _table(NF4, 1.0),
    "LLM_INT8": lambda weight, group: _symmetric(8)(weight, None),
    # llama.cpp's blocks: a scale and a minimum for 32 weights, a scale for 16, a scale for 32.
    "Q4_K": lambda weight, group: _asymmetric(4)(weight, 32),
    "Q6_K": lambda weight, group: _symmetric(6)(weight, 16),
    "Q8_0": lambda weight, group: _symmetric(8)(weight, 32),
    "NVFP4": _table(FP4, E2M1),
    "MXFP4": _table(FP4, E2M1, powers_of_two=True),
}
