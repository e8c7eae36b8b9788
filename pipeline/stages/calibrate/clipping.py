"""Ranges from observed statistics: five techniques, each a pure function of a sketch.

A technique decides on a clip point for magnitudes, because every format here is symmetric: a value x becomes
round(x / s) with s = clip / (largest number of the format). A range never exceeds the observed extremes.

* `minmax`: the largest observed magnitude.
* `moving_average`: exponential moving averages of each sample's minimum and maximum (Krishnamoorthi, "Quantizing deep
  convolutional networks for efficient inference", 2018, section 3; Jacob et al., 2018, section 3.1).
* `percentile`: the magnitude that a given share of all values does not exceed (McKinstry et al., 2018).
* `mse`: the clip point whose rounding and clipping errors have the smallest mean square.
* `entropy`: the clip point whose quantized distribution has the smallest KL divergence from the original one (Migacz,
  "8-bit inference with TensorRT", 2017), on 8192 equal bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.elements import Element
from pipeline.stages.calibrate import histograms

Technique = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]
TECHNIQUES: tuple[Technique, ...] = ("minmax", "moving_average", "percentile", "mse", "entropy")
Floats = NDArray[np.float64]

# Clip points that `mse` and `entropy` choose from: eight to the octave, eight octaves down from the maximum.
CANDIDATES = 2.0 ** (-np.arange(65) / 8)
LINEAR_BINS = 8192
FEWEST_BINS = 128


@dataclass(frozen=True)
class Observed:
    """Statistics of one tensor or one head, as the techniques use them.

    Attributes:
        minimum: smallest observed value.
        maximum: largest observed value.
        average: moving averages of the samples' minima and maxima.
        counts: values of each of the sketch's bins of magnitude, (BINS,).
    """

    minimum: float
    maximum: float
    average: tuple[float, float]
    counts: NDArray[np.int64]

    @property
    def largest(self) -> float:
        """Largest observed magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


def moving_average(extremes: Sequence[tuple[float, float]], constant: float) -> tuple[float, float]:
    """Return exponential moving averages of minima and maxima, starting at the first sample's."""
    low, high = extremes[0]
    for minimum, maximum in extremes[1:]:
        low += constant * (minimum - low)
        high += constant * (maximum - high)
    return low, high


def clip_point(seen: Observed, technique: Technique, number: Element, percentile: float = 99.99) -> float:
    """Return the magnitude at which a technique clips; never beyond the largest observed.

    Raises:
        KeyError: on a technique that there is not.
    """
    if technique == "minmax":
        return seen.largest
    if technique == "moving_average":
        return min(seen.largest, max(abs(end) for end in seen.average))
    if technique == "percentile":
        return _percentile(seen, percentile)
    search = {"mse": _mse, "entropy": _entropy}[technique]
    return search(seen, number)


def limits(seen: Observed, clip: float) -> tuple[float, float]:
    """Return the range: the observed extremes, clipped on both sides."""
    return max(seen.minimum, -clip), min(seen.maximum, clip)


def _percentile(seen: Observed, percentile: float) -> float:
    total = np.cumsum(seen.counts, dtype=np.float64)
    if percentile >= 100 or total[-1] == 0:
        return seen.largest
    wanted = percentile / 100 * total[-1]
    index = int(np.searchsorted(total, wanted))
    # The bin's own number: for a BF16 model that is the value itself. A range of zero would be none.
    return min(seen.largest, float(_magnitudes()[index])) or seen.largest


def _mse(seen: Observed, number: Element) -> float:
    used = np.flatnonzero(seen.counts)
    values, counts = _magnitudes()[used].clip(max=seen.largest), seen.counts[used].astype(np.float64)
    clips = seen.largest * CANDIDATES
    if not seen.largest > 0:
        return seen.largest
    scales = clips[:, None] / number.largest
    error = number.round(values / scales) * scales - values
    return float(clips[np.argmin((error * error) @ counts)])


def _entropy(seen: Observed, number: Element) -> float:
    if not seen.largest > 0:
        return seen.largest
    reference = _linear(seen)
    width = seen.largest / LINEAR_BINS
    sizes = np.unique(np.rint(LINEAR_BINS * CANDIDATES).astype(int))[::-1]
    sizes = sizes[sizes >= FEWEST_BINS]
    prefixes = Prefixes.of(reference)
    divergences = [divergence(prefixes, int(size), number) for size in sizes]
    return float(width * sizes[int(np.argmin(divergences))])


def _linear(seen: Observed) -> Floats:
    """Return the distribution on equal bins from zero to the maximum; each bin of the sketch is spread evenly."""
    cumulated = np.concatenate([[0.0], np.cumsum(seen.counts, dtype=np.float64)])
    ends = np.minimum(_edges(), seen.largest)
    # Bins beyond the maximum are empty; the last edge holds everything.
    shares = np.interp(np.linspace(0, seen.largest, LINEAR_BINS + 1), ends, cumulated)
    shares[-1] = cumulated[-1]
    return np.diff(shares)


class Prefixes(NamedTuple):
    """Sums over the first bins of a distribution, (bins + 1,) each: of counts, used bins, and c log c."""

    counts: Floats
    used: Floats
    logs: Floats

    @classmethod
    def of(cls, counts: Floats) -> Prefixes:
        """Return the sums of a distribution on equal bins."""
        sums = (np.cumsum(values, dtype=np.float64) for values in (counts, counts > 0, _xlogx(counts)))
        return cls(*(np.concatenate([[0.0], each]) for each in sums))


def _xlogx(values: Floats) -> Floats:
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))


def divergence(sums: Prefixes, size: int, number: Element) -> float:
    """Return the KL divergence in nats of the first `size` bins, outliers in the last, from their quantized image.

    All bins of a level have the same image, so the sums need a term for each level and none for each bin.
    """
    starts, ends = _levels(size, number)
    mass, used = sums.counts[ends] - sums.counts[starts], sums.used[ends] - sums.used[starts]
    total, last = sums.counts[-1], sums.counts[size] - sums.counts[size - 1]
    outliers = total - sums.counts[size]
    # A nearly empty bin gets half a count, as an empty one does.
    image = np.maximum(mass / np.maximum(used, 1), 0.5)
    images = float(used @ image)
    crossed = float(mass @ np.log(image)) + float(outliers * np.log(image[-1]))
    if outliers > 0 and not last > 0:
        # Outliers in a bin that nothing else reached: its image is the half count.
        images, crossed = images + 0.5, crossed + float(outliers * (np.log(0.5) - np.log(image[-1])))
    ends_in = _xlogx(np.array([last, last + outliers]))
    entropy = sums.logs[size] + float(ends_in[1] - ends_in[0])
    return float((entropy - crossed) / total + np.log(images / total))


@cache
def _levels(size: int, number: Element) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return start and end of each run of bins, out of `size` below the clip point, that share a quantized number."""
    rounded = number.round((np.arange(size) + 0.5) / size * number.largest)
    starts = np.flatnonzero(np.diff(rounded, prepend=np.nan) != 0)
    return starts, np.append(starts[1:], size)


@cache
def _magnitudes() -> Floats:
    return np.asarray(histograms.magnitudes().numpy())


@cache
def _edges() -> Floats:
    return np.asarray(histograms.edges().numpy())
