"""A figure's uncertainty, and a figure that is not there: the two things that every comparison has to carry along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pipeline.results.base import Frozen

LEVEL = 0.95
Name = TypeVar("Name")


class Interval(Frozen):
    """The range of values that the data do not rule out at `LEVEL`."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether `value` is inside, ends included."""
        return self.low <= value <= self.high


def excludes_zero(interval: Interval | None) -> bool:
    """Whether a difference with this interval may be claimed; without an interval it may not."""
    return interval is not None and not interval.contains(0.0)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Each p-value corrected for all of them: the k-th smallest of m is multiplied by m - k + 1, and none overtakes.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6, 1979.
    """
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted
