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

Both are means, below which one row in a hundred may be zero. So the worst part is held against its own error of
rounding to nearest as well (`worst_parts`): rows, groups, and the channels of a weight that was rescaled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import UnknownFormat
from pipeline.formats.blocks import BLOCKS, GgmlBlock
from pipeline.formats.grids import TINY, blocks
from pipeline.formats.schemes import SCHEMES, Scheme

if TYPE_CHECKING:
    import torch

# SmoothQuant and AWQ round rescaled weights to nearest; AutoAWQ clips the largest weights first.
TOLERANCE = {"rtn": 1.25, "smoothquant": 1.25, "awq": 1.5}
# Data-aware rounding may trade errors of weights for errors of outputs.
TOLERANCE_WITH_DATA = 3.0
# A clipped group keeps less of its length: AutoAWQ's are at 4.3 in a tiny Qwen2.
TOLERANCE_OF_FACTORS = {"awq": 5.0}
TOLERANCE_OF_OTHER_FACTORS = 4.0
TOLERANCE_OF_BIAS = 1.5
# BF16 keeps eight bits of a quotient: half a unit in the last place.
BF16_QUOTIENT = 2.0**-9
# The worst row or group over what rounding to nearest and the median of the rows explain. On the demo model rounding to
# nearest is at 1.0, at 1.5 in blocks of FP4, GPTQ at 1.9 with fewer tokens than inputs, AutoAWQ at 2.2 where it clips.
# In random matrices (Gaussian, Student's t of 3 degrees, columns or rows of log-normal size; inputs independent, of low
# rank, with outlier channels) GPTQ is below 1.8, and at 2.3 in the worst of 24. Zeros are at 4 to 9 in four bits.
TOLERANCE_OF_PARTS = {"rtn": 2.0, "smoothquant": 2.0}
TOLERANCE_OF_PARTS_WITH_DATA = 3.0
# Algorithms that change the weights not yet rounded to make up for the rounding of others.
COMPENSATING = ("gptq", "smoothquant_gptq")
# Some layers of trained models have a token whose inputs are so many times as large as the median token's (the first
# of a text: "massive activations", Sun et al., 2024). It decides what GPTQ minimizes, which then moves weights farther
# than elsewhere: in SmolLM2's worst layer of 576 rows, one row is at 4.1 and its worst group at 4.5.
HUGE_INPUTS = 10.0
TOLERANCE_OF_PARTS_BESIDE_HUGE = 6.0
# There a row loses so many times more to rounding than the median row, and is moved by 14 times what rounding to
# nearest moves it. Its outputs tell if that did them good: they may err by so many times that of rounding to nearest.
HEAVY_ROWS = 5.0
TOLERANCE_OF_OUTPUTS = 2.0
# Share of an input channel that clipping may take: AutoAWQ and GPTQModel take up to .10 with 500 tokens, .23 with 100.
CLIPPED = 0.35
# An error this far below the usual part of a weight is below what its scales resolve.
SMALLEST = 2.0**-8


class Limits(NamedTuple):
    """Upper bounds on a weight's two errors for a format and an algorithm."""

    error: float
    factor_error: float


class Part(NamedTuple):
    """Row, group or input channel of a weight with its relative error, and the largest that is explained."""

    place: str
    error: float
    allowed: float


def relative_error(original: torch.Tensor, image: torch.Tensor) -> float:
    """Return |original - image| / |original|: 0 for two zeros; infinite if the image is not finite, or not 0 alike."""
    distance, norm = float((original - image).norm()), float(original.norm())
    if distance == 0:
        return 0.0
    error = distance / norm if norm else math.inf
    return math.inf if math.isnan(error) else error


def factor_error(original: torch.Tensor, image: torch.Tensor, group: int | None) -> float:
    """Return the rms over groups of the deviation from 1 of the factor between weights and their images."""
    weights, images = blocks(original, group), blocks(image, group)
    squares = weights.square().sum(1)
    if not bool((squares > 0).any()):
        return 0.0
    factors = (weights * images).sum(1)[squares > 0] / squares[squares > 0]
    error = float((factors - 1).square().mean().sqrt())
    return math.inf if math.isnan(error) else error


def rounded(weight: torch.Tensor, name: str, group: int | None) -> torch.Tensor:
    """Return a weight of shape (out, in), float32, rounded to the nearest numbers of a format.

    Raises:
        UnknownFormat: if neither the schemes nor llama.cpp's blocks have the format.
    """
    found: Scheme | GgmlBlock | None = SCHEMES.get(name) or BLOCKS.get(name)
    if found is None or found.round is None:
        raise UnknownFormat(f"how {name} rounds")
    return found.round(weight, group)


def limits(original: torch.Tensor, nearest: torch.Tensor, group: int | None, algorithm: str) -> Limits:
    """Return the largest errors of a weight when rounded by this algorithm.

    Args:
        original: BF16 weight of shape (out, in).
        nearest: the weight rounded to nearest in its format.
        group: input channels that share a scale.
        algorithm: rounding algorithm.
    """
    error = relative_error(original, nearest)
    if not math.isfinite(error):
        # Factors that are not finite give no bound.
        return Limits(0.0, 0.0)
    error *= TOLERANCE.get(algorithm, TOLERANCE_WITH_DATA)
    tolerance = TOLERANCE_OF_FACTORS.get(algorithm, TOLERANCE_OF_OTHER_FACTORS)
    by_chance = tolerance * error / math.sqrt(blocks(original, group).shape[1])
    bias = TOLERANCE_OF_BIAS * factor_error(original, nearest, group)
    return Limits(error, max(by_chance, bias) + BF16_QUOTIENT)


def worst_parts(
    original: torch.Tensor,
    image: torch.Tensor,
    nearest: torch.Tensor,
    group: int | None,
    algorithm: str,
    *,
    beside_huge: bool = False,
) -> list[Part]:
    """Return the row and the group whose error exceeds most what rounding to nearest explains.

    A part's own nearest error explains it, or its share of the row's or of the weight's if that is larger: data-aware
    rounding moves errors along a row. What it moves into some inputs, it does in all rows, so the median of the rows
    explains as much again, as far as the tolerance of the whole weight goes.

    Args:
        original: BF16 weight of shape (out, in).
        image: its image, with factors divided out.
        nearest: the weight rounded to nearest in its format.
        group: input channels that share a scale.
        algorithm: rounding algorithm.
        beside_huge: whether the module has huge inputs (`has_huge`), and the algorithm compensates.
    """
    mean = TOLERANCE.get(algorithm, TOLERANCE_WITH_DATA)
    tolerance = TOLERANCE_OF_PARTS.get(algorithm, TOLERANCE_OF_PARTS_WITH_DATA)
    tolerance = TOLERANCE_OF_PARTS_BESIDE_HUGE if beside_huge else tolerance
    usual, found = relative_error(original, nearest), []
    if not math.isfinite(usual):
        return []
    width = original.shape[1]
    # Blocks of bitsandbytes may run over the end of a row.
    for size in dict.fromkeys((width, group)) if group and width % group == 0 else (width,):
        number = width // size
        norms, seen, wrong = _norms(original, size), _norms(original - image, size), original - nearest
        explained = _norms(wrong, size).maximum(_share(wrong, number))
        explained = explained.maximum(usual * norms.maximum(_share(original, number)))
        peers = (seen / explained.clamp_min(TINY)).reshape(-1, number).nanmedian(0).values.clamp(1, mean)
        usual_norm = norms.square().mean().sqrt()
        allowed = tolerance * explained * peers.repeat(len(original)) + SMALLEST * usual_norm
        worst = int((seen / allowed.clamp_min(TINY)).nan_to_num(math.inf).argmax())
        row, place = divmod(worst, number)
        length = float(norms[worst]) or float(usual_norm) or TINY
        name = f"row {row}" if number == 1 else f"row {row}, group {place}"
        found.append(Part(name, float(seen[worst]) / length, float(allowed[worst]) / length))
    return found


def _norms(weight: torch.Tensor, size: int) -> torch.Tensor:
    norms: torch.Tensor = blocks(weight, size).norm(dim=1)
    return norms


def _share(weight: torch.Tensor, number: int) -> torch.Tensor:
    """Return the norm that each of a row's groups has if they are alike."""
    rows: torch.Tensor = weight.norm(dim=1)
    return (rows / math.sqrt(number)).repeat_interleave(number)


def worst_channel(
    original: torch.Tensor, image: torch.Tensor, nearest: torch.Tensor, algorithm: str, slack: torch.Tensor | float
) -> Part:
    """Return the input channel whose factor between weights and image is farthest from 1, relative to its limit.

    Args:
        original: BF16 weight of shape (out, in).
        image: its image, with the factors of the inputs divided out.
        nearest: the weight rounded to nearest in its format.
        algorithm: rounding algorithm.
        slack: relative error of the factors that were divided out, of all or of each, and what clipping takes.
    """
    lengths = _lengths(original, 0)
    off = ((image - original) * original).sum(0).abs() / lengths.square()
    # The norm before and after and the product are rounded to BF16, each by half a unit.
    allowed = explained_factors(original, nearest, algorithm, 0) + slack + 4 * BF16_QUOTIENT
    worst = int((off / allowed).nan_to_num(math.inf).argmax())
    return Part(f"input {worst}", float(off[worst]), float(allowed[worst]))


def explained_factors(original: torch.Tensor, nearest: torch.Tensor, algorithm: str, dim: int) -> torch.Tensor:
    """Return how far rounding may move the least-squares factor of each channel from 1.

    Errors of rounding that are independent of the weights do so by chance, as far as those of the nearest numbers do
    where they are not: the weights may have been rounded before.

    Args:
        original: BF16 weight of shape (out, in).
        nearest: the weight rounded to nearest in its format.
        algorithm: rounding algorithm.
        dim: dimension of the sums: 0 for input channels, 1 for output channels.
    """
    lengths = _lengths(original, dim)
    bias = ((nearest - original) * original).sum(dim).abs() / lengths.square()
    error = (nearest - original).norm(dim=dim) / lengths * TOLERANCE.get(algorithm, TOLERANCE_WITH_DATA)
    by_chance = TOLERANCE_OF_OTHER_FACTORS * error / math.sqrt(original.shape[dim])
    explained: torch.Tensor = by_chance.maximum(TOLERANCE_OF_BIAS * bias)
    return explained


def _lengths(weight: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the norm of each channel, of an empty one what the scales of the others resolve."""
    norms: torch.Tensor = weight.norm(dim=dim)
    lengths = norms.clamp_min(TINY)
    return lengths.maximum(SMALLEST * lengths.square().mean().sqrt())


def has_huge(inputs: torch.Tensor) -> bool:
    """Return whether one token's inputs of a module, (tokens, in), are far larger than the median token's."""
    lengths = inputs.norm(dim=1)
    return bool(lengths.max() > HUGE_INPUTS * lengths.median())


def heavy_rows(original: torch.Tensor, nearest: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return which rows lose far more to rounding than others, shape (out,).

    Args:
        original: BF16 weight of shape (out, in).
        nearest: the weight rounded to nearest in its format.
        inputs: of the module, (tokens, in).
    """
    lost = (inputs @ (nearest - original).T).norm(dim=0)
    found: torch.Tensor = lost > HEAVY_ROWS * lost.median()
    return found


def worst_outputs(
    original: torch.Tensor, image: torch.Tensor, nearest: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor
) -> Part:
    """Return the row among some whose output error exceeds most what rounding to nearest explains.

    Args:
        original: BF16 weight of shape (out, in).
        image: its image, with factors divided out.
        nearest: the weight rounded to nearest in its format.
        inputs: of the module, (tokens, in).
        rows: the rows to compare, shape (out,).
    """
    outputs = (inputs @ original[rows].T).norm(dim=0).clamp_min(TINY)
    error = (inputs @ (image - original)[rows].T).norm(dim=0) / outputs
    explained = TOLERANCE_OF_OUTPUTS * (inputs @ (nearest - original)[rows].T).norm(dim=0) / outputs
    worst = int((error / explained.clamp_min(TINY)).nan_to_num(math.inf).argmax())
    row = int(rows.nonzero().flatten()[worst])
    return Part(f"outputs of row {row}", float(error[worst]), float(explained[worst]))
