"""Several runs side by side: what changed in settings, versions and results, and what became worse beyond noise."""

from __future__ import annotations

from typing import Literal

from pipeline.compare.estimates import Frozen, Interval

Direction = Literal["worse", "better", "same", "unknown", "gone", "new"]


class RunName(Frozen):
    """One run of the history, the oldest first."""

    name: str
    model: str
    machine: str
    measured: str


class SettingChange(Frozen):
    """A setting or a version that differs between runs; None where a run does not have it."""

    variant: str
    name: str
    values: tuple[str | None, ...]


class Figure(Frozen):
    """One result of one run."""

    value: float
    interval: Interval | None


class ResultChange(Frozen):
    """One figure of one variant over the runs; `change` is from the run before the last to the last.

    In percent, and in points for accuracy. `unknown` where a run has no interval or another machine.
    """

    variant: str
    label: str
    column: str
    unit: str
    figures: tuple[Figure | None, ...]
    change: float | None
    interval: Interval | None
    direction: Direction
    reason: str = ""


class History(Frozen):
    """All runs, this one last."""

    runs: tuple[RunName, ...]
    settings: tuple[SettingChange, ...]
    versions: tuple[SettingChange, ...]
    results: tuple[ResultChange, ...]

    @property
    def regressions(self) -> tuple[ResultChange, ...]:
        """What became worse beyond noise, or is gone."""
        return tuple(change for change in self.results if change.direction in ("worse", "gone"))
