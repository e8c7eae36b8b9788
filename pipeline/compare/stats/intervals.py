"""Intervals, the rule for claiming a difference, and Holm's correction for multiple comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from pipeline.results.base import Frozen

LEVEL = 0.95
Name = TypeVar("Name")


class Interval(Frozen):
    """A confidence interval at `LEVEL`."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Return True if `value` is inside, ends included."""
        return self.low <= value <= self.high


def excludes_zero(interval: Interval | None) -> bool:
    """Return True if a difference with this interval may be claimed; without an interval it may not."""
    return interval is not None and not interval.contains(0.0)


def percent_of(log_ratio: float) -> float:
    """Return a difference of logarithms as a change in percent; beyond e^300 it is capped, to remain finite."""
    return 100 * math.expm1(min(log_ratio, 300.0))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Correct p-values for multiple comparisons: the k-th smallest of m is multiplied by m - k + 1, kept monotonic.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6, 1979.
    """
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted
