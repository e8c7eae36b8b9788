"""Prediction intervals: the range of one more run of the same system, to compare a published single run with.

The interval of a mean shrinks with the number of repeats, and a single run of the same system then lies outside it more
and more often. One more run has its own noise, so its interval is (G. Hahn, W. Meeker, L. Escobar, Statistical
Intervals, 2nd ed., 2017, section 4.7), on the logarithm, as all figures are positive:

    mean +- t(n - 1) * s * sqrt(1 + 1 / n)

The change between two single runs has the variance of both, with Satterthwaite's degrees of freedom (Biometrics
Bulletin 2, 1946): s0^2 (1 + 1 / n0) + s1^2 (1 + 1 / n1). The published run is assumed to vary as these repeats do,
which share one start of a server; variation between starts, machines and versions is not in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

from pipeline.compare.stats.intervals import LEVEL, Interval


def one_more_run(values: Sequence[float]) -> Interval | None:
    """Return the prediction interval of one more run; None without positive, varying repeats."""
    found = _moments(values)
    if found is None:
        return None
    centre, variance, freedom = found
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Interval(low=math.exp(centre - half), high=math.exp(centre + half))


def one_more_change(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """Return the prediction interval, in percent, of the change between one more run of each."""
    ours, theirs = _moments(values), _moments(baseline)
    if ours is None or theirs is None:
        return None
    variance = ours[1] + theirs[1]
    freedom = variance**2 / (ours[1] ** 2 / ours[2] + theirs[1] ** 2 / theirs[2])
    centre, half = ours[0] - theirs[0], float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Interval(low=100 * math.expm1(centre - half), high=100 * math.expm1(min(centre + half, 300.0)))


def _moments(values: Sequence[float]) -> tuple[float, float, int] | None:
    """Return mean and variance of one more run's logarithm, and the degrees of freedom."""
    if len(values) < 2 or min(values) <= 0 or len(set(values)) == 1:
        return None
    logs = [math.log(value) for value in values]
    return statistics.fmean(logs), statistics.variance(logs) * (1 + 1 / len(logs)), len(logs) - 1
