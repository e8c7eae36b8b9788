"""Means over repeats of a benchmark, and the change of a mean against the baseline's.

The interval of a mean is Student's: m +- t(n-1) * s / sqrt(n). Three repeats may agree by chance; so if each value has
a standard error e over its requests (as a percentile does, see `bootstrap`), the interval is never narrower than those
errors alone imply: m +- z * sqrt(sum(e^2)) / n. Its coverage is at least that of Student's.

The change is the ratio of two means, with an interval by the delta method on its logarithm, which keeps it above -100 %
and symmetric in the two means (G. Casella, R. Berger, Statistical Inference, 2nd ed., 2002, section 5.5.4):

    log(m1 / m0) +- t(v) * sqrt(a1 + a0),   a = s^2 / (n m^2)

with the degrees of freedom of F. Satterthwaite (Biometrics Bulletin 2, 1946): v = (a1 + a0)^2 / (a1^2 / (n1 - 1) +
a0^2 / (n0 - 1)). Repeats of two variants share their seeds, but they ran at different times: they are not paired.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from pipeline.compare.stats.intervals import LEVEL, Interval, excludes_zero
from pipeline.results.base import Frozen, Missing

Errors = Sequence[float | None]
Z = float(ndtri((1 + LEVEL) / 2))


class Repeated(Frozen):
    """One metric of one variant, over all repeats."""

    unit: str
    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    spread: Interval

    @property
    def median(self) -> float:
        """The median over all repeats."""
        return statistics.median(self.values)

    @property
    def repeats(self) -> int:
        """The number of repeats."""
        return len(self.values)


class Change(Frozen):
    """The change of a mean from the baseline's, in percent; `reason` if there is no interval.

    `p_value` is two-sided, and below 0.05 exactly if the interval excludes zero.
    """

    percent: float
    interval: Interval | None
    reason: str | None = None
    p_value: float | None = None

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero."""
        return excludes_zero(self.interval)


def summarize(unit: str, values: Sequence[float], errors: Errors = ()) -> Repeated | Missing:
    """Return mean, interval and range of one metric; a single value has no interval.

    Args:
        unit: unit of the values.
        values: one per repeat.
        errors: the standard error of each value over the requests of its repeat, if known.
    """
    if not values:
        return Missing(reason="no repeat finished")
    if not all(math.isfinite(value) for value in values):
        return Missing(reason="a repeat's figure is not finite")
    mean = _mean(values)
    half = None
    if len(values) > 1:
        half = _t(len(values) - 1) * math.sqrt(_variance(values) / len(values))
        half = max(half, Z * math.sqrt(_floor(values, errors)))
    return Repeated(
        unit=unit,
        values=tuple(values),
        mean=mean,
        interval=None if half is None else Interval(low=mean - half, high=mean + half),
        spread=Interval(low=min(values), high=max(values)),
    )


def relative_change(
    values: Sequence[float], baseline: Sequence[float], errors: Errors = (), baseline_errors: Errors = ()
) -> Change | Missing:
    """Return the change of the mean from `baseline` to `values`, in percent.

    Args:
        values: one per repeat.
        baseline: one per repeat.
        errors: the standard error of each value over the requests of its repeat, if known.
        baseline_errors: the same for the baseline.
    """
    if not values or not baseline:
        return Missing(reason="no repeat finished")
    mean, reference = _mean(values), _mean(baseline)
    if mean <= 0 or reference <= 0:
        return Missing(reason="a ratio needs means above zero")
    percent = 100 * (mean / reference - 1)
    if len(values) < 2 or len(baseline) < 2:
        return Change(percent=percent, interval=None, reason="a single repeat has no interval")
    ours = _variance(values) / (len(values) * mean**2)
    theirs = _variance(baseline) / (len(baseline) * reference**2)
    total, centre = ours + theirs, math.log(mean / reference)
    error = math.sqrt(_floor(values, errors) / mean**2 + _floor(baseline, baseline_errors) / reference**2)
    # Identical repeats give no estimate of the noise; rounding leaves a variance of about 1e-32.
    if total < 1e-28 and not error:
        return Change(percent=percent, interval=None, reason="the repeats are identical, so their noise is unknown")
    half, p_value = Z * error, 2 * float(ndtr(-abs(centre) / error)) if error else 0.0
    if total >= 1e-28:
        share = ours / total
        freedom = 1 / (share**2 / (len(values) - 1) + (1 - share) ** 2 / (len(baseline) - 1))
        half = max(half, _t(freedom) * math.sqrt(total))
        p_value = max(p_value, 2 * float(stdtr(freedom, -abs(centre) / math.sqrt(total))))
    around = Interval(low=_percent(centre - half), high=_percent(centre + half))
    return Change(percent=percent, interval=around, p_value=p_value)


def _floor(values: Sequence[float], errors: Errors) -> float:
    """Return the variance of the mean from the errors within repeats alone; zero if not known."""
    known = [error for error in errors if error is not None]
    return math.fsum(error**2 for error in known) / len(values) ** 2 if len(known) == len(values) else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _t(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _percent(log_ratio: float) -> float:
    # Beyond e^300 the figure has no meaning; the cap keeps it finite.
    return 100 * math.expm1(min(log_ratio, 300.0))
