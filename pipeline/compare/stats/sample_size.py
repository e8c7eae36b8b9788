"""The items that a verdict on a loss takes, and the smallest loss that a set of given size can rule out.

Both solve the statistic of the tests that give the verdict (`paired_score`, with its variance under the hypothesis and
its half item; S. Holm's correction at its strictest, the level divided by all comparisons) for the number of items at
which the verdict falls with the wanted power, at given shares of items that only one of the two answers correctly. With
a the distance of the difference from the hypothesis, z and y the normal quantiles of level and power, and s0^2 and s1^2
an item's variance under the hypothesis and at these shares, that is

    a sqrt(n) - 1 / (2 sqrt(n)) = z s0 + y s1

(R. Connor, Biometrics 43, 1987, with the variances of T. Tango, Statist. Med. 17, 1998). The shares are known only from
the items so far. So the number is a range: that of the shares' posterior distribution under H. Jeffreys' prior (A.
Gelman et al., Bayesian Data Analysis, 3rd ed., 2013, section 3.4), from its 5th to its 95th percentile.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from pipeline.compare.stats.paired_score import null_variance
from pipeline.results.base import Frozen

LEVEL = 0.05
POWER = 0.8
# A set of items can show a loss if identical accuracy is found no worse in 19 of 20 cases, although as many answers
# differ as some 4-bit formats of 8B models change.
SURE = 0.95
DIFFERING = 0.08
STEP = 0.005
MOST = 1_000_000
DRAWS = 400
SEED = 0

Floats = NDArray[np.float64]


class ItemsNeeded(Frozen):
    """The total of items that a verdict takes with a power of 80 %, to two digits; None: more than `MOST`.

    `available` is the size of the whole set, None if unknown.
    """

    low: int | None
    likely: int | None
    high: int | None
    available: int | None = None

    @property
    def within_set(self) -> bool:
        """True if the set may have enough items."""
        return self.likely is not None and (self.available is None or self.likely <= self.available)

    def text(self, noun: str = "items") -> str:
        """Describe the number and its range."""
        if not self.within_set:
            if self.available is None or self.low is None:
                return f"more {noun} than any set has"
            if self.low < self.available:
                return f"{self.low:,} {noun} at least, and perhaps more than the {self.available:,} that exist"
            return f"more than the {self.available:,} {noun} that exist"
        assert self.likely is not None and self.low is not None
        if self.high is None or (self.available is not None and self.high > self.available):
            limit = f"more than the {self.available:,} that exist" if self.available is not None else "any number"
            return f"some {self.likely:,} {noun} ({self.low:,} to {limit})"
        return f"some {self.likely:,} {noun} ({self.low:,} to {self.high:,})"


@lru_cache(maxsize=4096)
def items_needed(
    gained: float, lost: float, n: int, margin: float, *, comparisons: int = 1, available: int | None = None
) -> ItemsNeeded:
    """Return the items for a verdict on a loss of binary scores.

    Args:
        gained: items that only the variant answers correctly.
        lost: items that only the baseline does.
        n: items so far.
        margin: the accepted loss, a share.
        comparisons: those of the table that *worse* is corrected for.
        available: items of the whole set.
    """
    # Half an item more than observed: a rate of zero would need no items.
    ours, theirs = (gained + 0.25) / (n + 0.5), (lost + 0.25) / (n + 0.5)
    likely = float(decided(*_at_best_equal(ours, theirs), margin, comparisons))
    draws = np.random.default_rng(SEED).dirichlet((gained + 0.5, lost + 0.5, max(n - gained - lost, 0) + 0.5), DRAWS)
    spread = decided(*_at_best_equal(draws[:, 0], draws[:, 1]), margin, comparisons)
    return _needed(likely, spread, n, available)


def items_needed_graded(
    difference: float, variance: float, n: int, margin: float, *, comparisons: int = 1, available: int | None = None
) -> ItemsNeeded:
    """Return the items for a verdict on a loss of graded scores, from the mean and variance of their differences."""
    draw = np.random.default_rng(SEED)
    spread = np.minimum(difference + math.sqrt(variance / n) * draw.standard_normal(DRAWS), 0.0)
    at = min(difference, 0.0)
    likely = float(_graded(at, variance, margin, comparisons))
    return _needed(likely, _graded(spread, variance, margin, comparisons), n, available)


def least_margin(size: int, smallest: float) -> float:
    """Return the smallest multiple of half a point, `smallest` or more, that a set of `size` items can show."""
    rate = DIFFERING / 2
    margin = smallest
    while margin < 1 and _no_worse(rate, rate, margin, SURE) > size:
        margin = STEP * (math.floor(margin / STEP + 1e-9) + 1)
    return margin


def never_shown(size: int) -> float:
    """Return the loss up to which not even identical answers to `size` items are found no worse.

    It is the upper limit of E. Wilson's interval, with the correction for continuity, of zero losses.
    """
    z = -float(ndtri(LEVEL))
    return (1 + z**2 + z * math.sqrt(2 + z**2 - 1 / size)) / (2 * (size + z**2))


def _at_best_equal(gained: ArrayLike, lost: ArrayLike) -> tuple[Floats, Floats]:
    """Return the shares, with a gain taken for no difference: what was observed above zero is at least half luck."""
    p, q = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    return np.where(p > q, (p + q) / 2, p), np.where(p > q, (p + q) / 2, q)


def decided(gained: Floats, lost: Floats, margin: float, comparisons: int) -> Floats:
    """Return the items for either verdict at true shares; infinite where the loss is the margin."""
    level = LEVEL / comparisons
    beyond = _items(-(gained - lost + margin), null_variance(gained, lost, -margin), gained, lost, level, POWER)
    # Worse than the margin must also be worse than equal, by McNemar's exact test: two-sided, an item of correction.
    differs = _items(lost - gained, gained + lost, gained, lost, level / 2, POWER, correction=1.0)
    earlier: Floats = np.minimum(_no_worse(gained, lost, margin, POWER), np.maximum(beyond, differs))
    return earlier


def _no_worse(gained: ArrayLike, lost: ArrayLike, margin: float, power: float) -> Floats:
    p, q = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    return _items(p - q + margin, null_variance(p, q, -margin), p, q, LEVEL, power)


def _items(
    distance: Floats,
    variance: Floats,
    gained: Floats,
    lost: Floats,
    level: float,
    power: float,
    correction: float = 0.5,
) -> Floats:
    """Solve a sqrt(n) - correction / sqrt(n) = z s0 + y s1 for n; infinite if the difference is on the other side."""
    observed = np.sqrt(np.maximum(gained + lost - (gained - lost) ** 2, 0.0))
    side = -float(ndtri(level)) * np.sqrt(variance) + float(ndtri(power)) * observed
    return _solved(distance, side, correction)


def _graded(difference: ArrayLike, variance: float, margin: float, comparisons: int) -> Floats:
    d = np.asarray(difference, dtype=np.float64)
    sd, y = math.sqrt(variance), float(ndtri(POWER))
    within = _solved(d + margin, np.full_like(d, sd * (y - float(ndtri(LEVEL)))), 0.0)
    return np.minimum(
        within, _solved(-(d + margin), np.full_like(d, sd * (y - float(ndtri(LEVEL / comparisons)))), 0.0)
    )


def _solved(distance: Floats, side: Floats, correction: float) -> Floats:
    a = np.where(distance > 0, distance, np.nan)
    root = (side + np.sqrt(side**2 + 4 * a * correction)) / (2 * a)
    return np.where(distance > 0, root**2, np.inf)


def _needed(likely: float, spread: Floats, n: int, available: int | None) -> ItemsNeeded:
    low, high = np.quantile(np.minimum(spread, 10.0 * MOST), [0.05, 0.95], method="inverted_cdf").tolist()

    def total(value: float) -> int | None:
        value = max(value, n + 1)
        if value > MOST:
            return None
        digits = max(len(str(math.ceil(value))) - 2, 0)
        return int(math.ceil(value / 10**digits) * 10**digits)

    return ItemsNeeded(
        low=total(min(low, likely)), likely=total(likely), high=total(max(high, likely)), available=available
    )
