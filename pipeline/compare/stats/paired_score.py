"""T. Tango's score test of the difference of two paired shares, in both directions, and the interval that it implies.

With b items that only the variant answers correctly, c that only the baseline does, and a hypothetical difference D,

    z(D) = ((b - c)/n - D) / sqrt((2q + D(1 - D)) / n),

where q, the share that only the baseline answers correctly, is estimated under the hypothesis: the larger root of
2n q^2 + (-(b + c) + (2n - b + c) D) q - c D (1 - D) = 0 (Statist. Med. 17, 1998). The numerator is moved half an item
towards zero in either direction: a continuity correction, without which small samples err a little more often than
the level says.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
# Steps of the bisection for the ends of the interval: 2^-30 of its range.
STEPS = 30
SIDES = np.array([1.0, -1.0])


def null_variance(gained: ArrayLike, lost: ArrayLike, at: ArrayLike) -> Floats:
    """Return the variance of one item's difference under the hypothesis that the difference is `at`, from shares."""
    p, q, d = (np.asarray(each, dtype=np.float64) for each in (gained, lost, at))
    linear = -(p + q) + (2 - p + q) * d
    root = (-linear + np.sqrt(np.maximum(linear**2 + 8 * q * d * (1 - d), 0.0))) / 4
    variance: Floats = np.maximum(2 * root + d * (1 - d), 0.0)
    return variance


def p_above(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, at: ArrayLike) -> Floats:
    """Return the one-sided p-value of the hypothesis that the difference is `at` or less."""
    return _p_value(gained, lost, n, at, 1.0)


def p_below(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, at: ArrayLike) -> Floats:
    """Return the one-sided p-value of the hypothesis that the difference is `at` or more."""
    return _p_value(gained, lost, n, at, -1.0)


def _p_value(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, at: ArrayLike, side: ArrayLike) -> Floats:
    b, c, count, d = (np.asarray(each, dtype=np.float64) for each in (gained, lost, n, at))
    excess = np.asarray(side) * ((b - c) / count - d) - 0.5 / count
    error = np.sqrt(null_variance(b / count, c / count, d) / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, ndtr(-excess / error), np.where(excess > 0, 0.0, 1.0))


@lru_cache(maxsize=4096)
def ends(gained: int, lost: int, n: int, level: float) -> tuple[float, float]:
    """Return the differences that neither one-sided test at `level` rejects: an interval at 1 - 2 `level`."""
    observed = (gained - lost) / n
    # The one end is the smallest difference that `p_above` does not reject, the other the largest of `p_below`.
    outer, inner = np.array([-1.0, 1.0]), np.array([observed, observed])
    for _ in range(STEPS):
        middle = (outer + inner) / 2
        rejected = _p_value(gained, lost, n, middle, SIDES) <= level
        outer, inner = np.where(rejected, middle, outer), np.where(rejected, inner, middle)
    return float(inner[0]), float(inner[1])
