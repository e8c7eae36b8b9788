"""Shares of correct answers, and their difference on the same items.

A share p of n items has E. Wilson's interval (J. Amer. Statist. Assoc. 22, 1927): (p + z^2/2n +- z sqrt(p(1-p)/n +
z^2/4n^2)) / (1 + z^2/n).

Two variants answer the same questions, so their difference is computed item by item. With b items that only the variant
answers correctly and c that only the baseline does, it is (b - c) / n. Its interval is the adjusted Wald interval of
D. Bonett and R. Price (J. Educ. Behav. Stat. 37, 2012), one of those that M. Fagerland, S. Lydersen and P. Laake
(Statist. Med. 33, 2014) recommend: with p = (b + 1) / (n + 2) and q = (c + 1) / (n + 2),

    (p - q) +- z sqrt((p + q - (p - q)^2) / (n + 2)).

The p-value is McNemar's exact one, 2 P(X <= min(b, c)) for X ~ Binomial(b + c, 1/2), at most 1. Scores that are not
0 or 1 have Student's interval and test on the items' differences instead, if any item differs.

The percentile interval of B. Efron's bootstrap over items (Ann. Statist. 7, 1979) is given as well: it is narrower, and
with fewer than about twenty differing items its coverage is below the nominal level.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from scipy.special import bdtr, gammaln, ndtri, stdtr, stdtrit

from pipeline.compare.stats.intervals import LEVEL, Interval, excludes_zero
from pipeline.results.base import Frozen, Missing

Z = float(ndtri((1 + LEVEL) / 2))
RESAMPLES = 9999
SEED = 0
Scores = Sequence[tuple[str, float]]


class Accuracy(Frozen):
    """One task's figure of one variant."""

    value: float
    interval: Interval | None
    n: int
    asked: int


class PairedDifference(Frozen):
    """A variant's score minus the baseline's on the same items; 0.01 is one point."""

    difference: float
    interval: Interval | None
    bootstrap: Interval | None
    p_value: float
    n: int
    gained: int
    lost: int
    method: Literal["adjusted Wald, McNemar", "paired t"]

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero."""
        return excludes_zero(self.interval)

    @property
    def within_noise(self) -> bool:
        """True if the interval contains zero, or there is none."""
        return not self.is_clear


class Mean(Frozen):
    """The mean of several tasks' figures or differences, with equal weights."""

    value: float
    interval: Interval | None
    tasks: int


def accuracy(value: float, n: int, asked: int, scores: Scores | None = None) -> Accuracy | Missing:
    """Return a task's figure with its interval: Wilson's for a share, Student's for a mean of graded scores."""
    if n < 1:
        return Missing(reason="no item was scored")
    if not math.isfinite(value):
        return Missing(reason="the figure is not finite")
    if scores is not None and not _is_binary(score for _, score in scores):
        interval = _t_interval([score for _, score in scores])
    elif 0 <= value <= 1:
        interval = wilson(value, n)
    else:
        interval = None
    return Accuracy(value=value, interval=interval, n=n, asked=asked)


def wilson(share: float, n: int) -> Interval:
    """Return Wilson's score interval of a share of `n` items."""
    scale = 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / scale
    # At 0 and 1 the end is the share itself; rounding must not push it past.
    return Interval(low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def pair(scores: Scores, baseline: Scores) -> list[tuple[float, float]] | Missing:
    """Return the two scores of each item, matched by its hash; duplicate items are matched in order."""
    if scores and [item for item, _ in scores] == [item for item, _ in baseline]:
        return _finite([(ours, theirs) for (_, ours), (_, theirs) in zip(scores, baseline, strict=True)])
    ours, theirs = _by_item(scores), _by_item(baseline)
    if not ours or not theirs:
        return Missing(reason="no samples were stored")
    only_ours = sum(len(rows) > len(theirs.get(item, ())) for item, rows in ours.items())
    only_theirs = sum(len(rows) > len(ours.get(item, ())) for item, rows in theirs.items())
    if only_ours or only_theirs:
        return Missing(reason=f"the items differ from the baseline's ({only_ours} only here, {only_theirs} only there)")
    matched = [couple for item, rows in ours.items() for couple in zip(rows, theirs[item], strict=True)]
    return _finite(matched)


def paired_difference(scores: Scores, baseline: Scores, *, bootstrap: bool = False) -> PairedDifference | Missing:
    """Return the difference from the baseline on the same items, or why the two cannot be paired."""
    matched = pair(scores, baseline)
    if isinstance(matched, Missing):
        return matched
    differences = [ours - theirs for ours, theirs in matched]
    difference, interval = paired_interval(matched)
    resampled = bootstrap_mean(differences) if bootstrap else None
    gained = sum(ours > theirs for ours, theirs in matched)
    lost = sum(ours < theirs for ours, theirs in matched)
    # Of graded scores that are all the same the variance is unknown, not zero: they tell as much as counted ones.
    if not (gained or lost) or _is_binary(score for couple in matched for score in couple):
        return counted_difference(gained, lost, len(matched), resampled)
    return PairedDifference(
        difference=difference,
        interval=interval,
        bootstrap=resampled,
        p_value=_t_test(differences),
        n=len(matched),
        gained=gained,
        lost=lost,
        method="paired t",
    )


def counted_difference(gained: int, lost: int, n: int, bootstrap: Interval | None = None) -> PairedDifference:
    """Return the difference of binary scores of `n` items, from those that only one side answers correctly."""
    return PairedDifference(
        difference=(gained - lost) / n,
        interval=adjusted_wald(gained, lost, n),
        bootstrap=bootstrap,
        p_value=mcnemar(gained, lost),
        n=n,
        gained=gained,
        lost=lost,
        method="adjusted Wald, McNemar",
    )


def paired_interval(matched: Sequence[tuple[float, float]]) -> tuple[float, Interval | None]:
    """Return the mean difference of pairs of scores, with its interval."""
    if _is_binary(score for couple in matched for score in couple):
        gained, lost = sum(ours > theirs for ours, theirs in matched), sum(ours < theirs for ours, theirs in matched)
        return (gained - lost) / len(matched), adjusted_wald(gained, lost, len(matched))
    differences = [ours - theirs for ours, theirs in matched]
    return math.fsum(differences) / len(differences), _t_interval(differences)


def adjusted_wald(gained: int, lost: int, n: int) -> Interval:
    """Return Bonett and Price's interval of (gained - lost) / n."""
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Interval(low=max(-1.0, p - q - half), high=min(1.0, p - q + half))


def bootstrap_mean(differences: Sequence[float]) -> Interval | None:
    """Return the percentile bootstrap interval of a mean; None if the items do not differ.

    Items are drawn with replacement. Among items with equal differences only the number drawn matters, so multinomial
    counts are drawn instead, which is equivalent and takes milliseconds.
    """
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    if len(values) < 2:
        return None
    draws = np.random.default_rng(SEED).multinomial(len(differences), counts / counts.sum(), size=RESAMPLES)
    low, high = np.quantile(draws @ values / len(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def mcnemar(gained: int, lost: int) -> float:
    """Return McNemar's exact two-sided p-value."""
    if gained + lost == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def fisher(ours: int, n: int, theirs: int, m: int) -> float:
    """Return the two-sided p-value of R. Fisher's exact test that `ours` of `n` and `theirs` of `m` differ by chance.

    It is twice that of the smaller tail (Statistical Methods for Research Workers, 5th ed., 1934, section 21.02).
    """
    total = ours + theirs
    counts = np.arange(max(0, total - m), min(n, total) + 1, dtype=np.float64)
    logs = -(gammaln(counts + 1) + gammaln(n - counts + 1) + gammaln(total - counts + 1))
    logs -= gammaln(m - total + counts + 1)
    chances = np.exp(logs - logs.max())
    chances /= chances.sum()
    tails = chances[counts >= ours].sum(), chances[counts <= ours].sum()
    return min(1.0, 2 * float(min(tails)))


def mean_over_tasks(parts: Sequence[tuple[float, Interval | None]]) -> Mean | Missing:
    """Return the mean of the tasks' figures; variances add, each derived from the width of its interval."""
    if not parts:
        return Missing(reason="no task could be compared")
    mean = math.fsum(value for value, _ in parts) / len(parts)
    intervals = [interval for _, interval in parts if interval is not None]
    if len(intervals) < len(parts):
        return Mean(value=mean, interval=None, tasks=len(parts))
    half = math.sqrt(math.fsum(((i.high - i.low) / 2) ** 2 for i in intervals)) / len(parts)
    # The width belongs to the interval's centre, which need not be the figure.
    centre = math.fsum((i.high + i.low) / 2 for i in intervals) / len(parts)
    interval = Interval(low=min(mean, centre - half), high=max(mean, centre + half))
    return Mean(value=mean, interval=interval, tasks=len(parts))


def _finite(matched: list[tuple[float, float]]) -> list[tuple[float, float]] | Missing:
    if not all(math.isfinite(score) for couple in matched for score in couple):
        return Missing(reason="an item's score is not finite")
    return matched


def _by_item(scores: Scores) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for item, score in scores:
        found[item].append(score)
    return found


def _is_binary(scores: Iterable[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _t_interval(values: Sequence[float]) -> Interval | None:
    error = _standard_error(values)
    if error is None:
        return None
    mean = math.fsum(values) / len(values)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * error
    return Interval(low=mean - half, high=mean + half)


def _t_test(values: Sequence[float]) -> float:
    error = _standard_error(values)
    mean = math.fsum(values) / len(values)
    if not error:
        return float(error is None or mean == 0)
    return min(1.0, 2 * float(stdtr(len(values) - 1, -abs(mean) / error)))


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
