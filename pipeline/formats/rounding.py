"""Error of rounding to nearest in each number format: the reference for the weights an engine wrote.

The error of a weight W and its quantized image V is the relative Frobenius norm |W - V| / |W|. For rounding to nearest
it follows from the format alone (for b bits and a step s about s / sqrt(12) for each weight), so it is computed here
from the BF16 weight with scales of its own. What an engine wrote may be worse by a factor: algorithms that compensate
errors (GPTQ) or weigh them (AWQ, AutoRound) accept larger ones on the weights to gain on the outputs. A zero point that
is off by one makes sqrt(1 + 12) = 3.6 times the error, a wrong order far more.

A wrong scale may hide below such a factor, so the factor f between a group of weights w and its image v is checked,
too: f = <w, v> / <w, w>. Errors uncorrelated with the weights leave f within e / sqrt(n) of 1 for n weights in a
group and an error of e. Rounding to nearest is at 0.6 to 2.1 times of that, clipped weights (AWQ, AutoRound) at up to
2.3; scales of the next channel make 6.7 times and more. Rows of thousands of weights average that out and leave a bias:
the format's own, for which rounding to nearest is the yardstick, and that of engines which divide by the scale in BF16,
where a quotient is off by up to 2^-9 and falls halfway between two FP8 numbers once in sixteen times (.0026 is seen in
FP8 checkpoints of 4,096 channels, of which .0007 are FP8's).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import UnknownFormat
from pipeline.formats.blocks import BLOCKS, GgmlBlock
from pipeline.formats.grids import blocks
from pipeline.formats.schemes import SCHEMES, Scheme

if TYPE_CHECKING:
    import torch

# SmoothQuant and AWQ round rescaled weights to nearest; AutoAWQ clips the largest weights first.
TOLERANCE = {"rtn": 1.25, "smoothquant": 1.25, "awq": 1.5}
# Data-aware rounding may trade errors of weights for errors of outputs.
TOLERANCE_WITH_DATA = 3.0
TOLERANCE_OF_FACTORS = 4.0
TOLERANCE_OF_BIAS = 1.5
# BF16 keeps eight bits of a quotient: half a unit in the last place.
BF16_QUOTIENT = 2.0**-9


def relative_error(original: torch.Tensor, image: torch.Tensor) -> float:
    """Return |original - image| / |original|; infinite if the image has a value that is not finite."""
    error = float((original - image).norm() / original.norm())
    return error if error == error else float("inf")


def factor_error(original: torch.Tensor, image: torch.Tensor, group: int | None) -> float:
    """Return the rms over groups of the deviation from 1 of the factor between weights and their images."""
    weights, images = blocks(original, group), blocks(image, group)
    squares = weights.square().sum(1)
    factors = (weights * images).sum(1)[squares > 0] / squares[squares > 0]
    error = float((factors - 1).square().mean().sqrt())
    return error if error == error else math.inf


def rounded(weight: torch.Tensor, name: str, group: int | None) -> torch.Tensor:
    """Return a weight of shape (out, in), float32, rounded to the nearest numbers of a format.

    Raises:
        UnknownFormat: if neither the schemes nor llama.cpp's blocks have the format.
    """
    found: Scheme | GgmlBlock | None = SCHEMES.get(name) or BLOCKS.get(name)
    if found is None or found.round is None:
        raise UnknownFormat(f"how {name} rounds")
    return found.round(weight, group)


class Limits(NamedTuple):
    """Upper bounds on a weight's two errors for a format and an algorithm."""

    error: float
    factor_error: float


def limits(
    weight: torch.Tensor, scheme: str, group: int | None, algorithm: str, scale: torch.Tensor | float = 1.0
) -> Limits:
    """Return the largest errors of a weight in this format when rounded by this algorithm.

    Args:
        weight: BF16 weight of shape (out, in).
        scheme: number format.
        group: input channels that share a scale.
        algorithm: rounding algorithm.
        scale: factor by which each weight was multiplied before rounding, and is divided afterwards.
    """
    image = rounded(weight * scale, scheme, group) / scale
    nearest = relative_error(weight, image)
    if not math.isfinite(nearest):
        # Factors that are not finite give no bound.
        return Limits(0.0, 0.0)
    error = nearest * TOLERANCE.get(algorithm, TOLERANCE_WITH_DATA)
    by_chance = TOLERANCE_OF_FACTORS * error / math.sqrt(blocks(weight, group).shape[1])
    bias = TOLERANCE_OF_BIAS * factor_error(weight, image, group)
    return Limits(error, max(by_chance, bias) + BF16_QUOTIENT)
