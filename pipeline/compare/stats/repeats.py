"""Figures of a benchmark over repeats, and changes of a figure, on the logarithmic scale.

Speeds and latencies are positive and their noise is proportional to them, so that intervals are those of the mean
logarithm, exp(m +- t s / sqrt(n)), and lie above zero; a change is a difference of mean logarithms, and its interval
lies above -100 % and is symmetric in the two variants (D. Altman, J. M. Bland, BMJ 312:1153, 1996). Three repeats may
agree by chance; so if each value has a standard error e over its requests (as a percentile does, see `bootstrap`), no
interval is narrower than those errors alone imply: z sqrt(sum((e / value)^2)) / n.

The test that a change is held against is `simultaneous`'; the noise is that of all variants (`measurement_model`), or
of two independent samples here (B. Welch, Biometrika 34, 1947), with F. Satterthwaite's degrees of freedom (Biometrics
Bulletin 2, 1946).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.compare.stats.intervals import LEVEL, Interval, excludes_zero, percent_of
from pipeline.compare.stats.simultaneous import Student, Test
from pipeline.results.base import Frozen, Missing

Errors = Sequence[float | None]
# Identical repeats leave a variance of about 1e-32 by rounding.
NO_VARIANCE = 1e-28
SINGLE = "a single repeat has no interval"
IDENTICAL = "the repeats are identical, so their noise is unknown"
NOT_POSITIVE = "a ratio needs figures above zero"


class Repeated(Frozen):
    """One metric of one variant, over all repeats: the arithmetic mean, and the interval on the logarithmic scale."""

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
    """The change of a figure from another variant's, in percent; `reason` if there is no interval.

    `p_value` is two-sided, and below 0.05 exactly if the interval at 95 % excludes zero; both are of the test that the
    change was held against. With one start of each server the ends of the interval are moved outward by
    `widened_percent`, and the p-value is that of a larger change.
    """

    percent: float
    interval: Interval | None
    reason: str | None = None
    p_value: float | None = None
    widened_percent: float = 0.0

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero."""
        return excludes_zero(self.interval)

    @property
    def qualification(self) -> str:
        """The limit of a claim from one start of each server, in words; empty if there is none."""
        return f"one start of each server, widened by {self.widened_percent:g} %" if self.widened_percent else ""


class Contrast(NamedTuple):
    """An estimated difference of mean logarithms; the noise is None if unknown, with the reason.

    `error` is its standard error with `freedom` degrees of freedom; `floor` the standard error that the errors within
    repeats alone imply.
    """

    log_ratio: float
    error: float | None
    freedom: float = math.inf
    floor: float = 0.0
    reason: str | None = None

    def half_width(self, test: Test, level: float = LEVEL) -> float:
        """Return half of the interval's width, on the logarithmic scale."""
        floor = test.critical(math.inf, level) * self.floor if self.floor else 0.0
        return max(floor, test.critical(self.freedom, level) * self.error if self.error else 0.0)

    def p_value(self, test: Test, bound: float = 0.0) -> float:
        """Return the two-sided p-value of a difference larger than `bound`."""
        beyond = abs(self.log_ratio) - bound
        if beyond <= 0:
            return 1.0
        found = [test.p_value(beyond / self.error, self.freedom)] if self.error else []
        found += [test.p_value(beyond / self.floor, math.inf)] if self.floor else []
        return max(found)

    def change(self, test: Test, tolerance_percent: float = 0.0, level: float = LEVEL) -> Change:
        """Return the change in percent under a test, its interval widened by a tolerance."""
        percent = percent_of(self.log_ratio)
        if not self.error and not self.floor:
            return Change(percent=percent, interval=None, reason=self.reason or IDENTICAL)
        bound = math.log1p(tolerance_percent / 100)
        half = self.half_width(test, level) + bound
        return Change(
            percent=percent,
            interval=Interval(low=percent_of(self.log_ratio - half), high=percent_of(self.log_ratio + half)),
            p_value=self.p_value(test, bound),
            widened_percent=tolerance_percent,
        )


def summarize(
    unit: str, values: Sequence[float], errors: Errors = (), start: Contrast | None = None
) -> Repeated | Missing:
    """Return mean, interval and range of one metric; a single value, or one that is not above zero, has no interval.

    Args:
        unit: unit of the values.
        values: one per repeat.
        errors: the standard error of each value over the requests of its repeat, if known.
        start: the noise of the mean by the starts of servers, where there are several: a lower bound.
    """
    if not values:
        return Missing(reason="no repeat finished")
    if not all(math.isfinite(value) for value in values):
        return Missing(reason="a repeat's figure is not finite")
    mean, interval = math.fsum(values) / len(values), None
    if len(values) > 1 and min(values) > 0:
        logs = [math.log(value) for value in values]
        own = Contrast(0.0, math.sqrt(_variance(logs) / len(logs)), len(logs) - 1, math.sqrt(floor(values, errors)))
        half = max(each.half_width(Student()) for each in (own, start) if each is not None)
        centre = _mean(logs)
        interval = Interval(low=min(mean, math.exp(centre - half)), high=max(mean, _capped_exp(centre + half)))
    return Repeated(
        unit=unit,
        values=tuple(values),
        mean=mean,
        interval=interval,
        spread=Interval(low=min(values), high=max(values)),
    )


def relative_change(
    values: Sequence[float], baseline: Sequence[float], errors: Errors = (), baseline_errors: Errors = ()
) -> Change | Missing:
    """Return the change from `baseline` to `values`, in percent, as independent samples: of two sessions, say.

    Variants of one session are compared by `measurement_model`.

    Args:
        values: one per repeat.
        baseline: one per repeat.
        errors: the standard error of each value over the requests of its repeat, if known.
        baseline_errors: the same for the baseline.
    """
    if not values or not baseline:
        return Missing(reason="no repeat finished")
    if min(*values, *baseline) <= 0:
        return Missing(reason=NOT_POSITIVE)
    ours, theirs = [math.log(value) for value in values], [math.log(value) for value in baseline]
    difference = _mean(ours) - _mean(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        return Contrast(difference, None, reason=SINGLE).change(Student())
    parts = [_variance(each) / len(each) for each in (ours, theirs)]
    total, within = math.fsum(parts), math.sqrt(floor(values, errors) + floor(baseline, baseline_errors))
    if total < NO_VARIANCE:
        return Contrast(difference, None, floor=within).change(Student())
    share = parts[0] / total
    freedom = 1 / (share**2 / (len(ours) - 1) + (1 - share) ** 2 / (len(theirs) - 1))
    return Contrast(difference, math.sqrt(total), freedom, within).change(Student())


def floor(values: Sequence[float], errors: Errors) -> float:
    """Return the variance of the mean logarithm from the errors within repeats alone; zero if not known."""
    known = [error for error in errors if error is not None]
    if len(known) != len(values):
        return 0.0
    return math.fsum((error / value) ** 2 for error, value in zip(known, values, strict=True)) / len(values) ** 2


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _capped_exp(log: float) -> float:
    # Beyond e^300 the figure has no meaning; the cap keeps it finite.
    return math.exp(min(log, 300.0))
