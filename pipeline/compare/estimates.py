"""A figure's uncertainty, and a figure that is not there: the two things that every comparison has to carry along."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

LEVEL = 0.95


class Frozen(BaseModel):
    """Plain data that nobody changes once it is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Frozen):
    """The range of values that the data do not rule out at `LEVEL`."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether `value` is inside, ends included."""
        return self.low <= value <= self.high


class Missing(Frozen):
    """What stands where a figure cannot: `n/a`, with the reason."""

    reason: str


def excludes_zero(interval: Interval | None) -> bool:
    """Whether a difference with this interval may be claimed; without an interval it may not."""
    return interval is not None and not interval.contains(0.0)
