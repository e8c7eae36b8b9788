"""Several runs side by side: changes in settings, versions and results, and regressions beyond noise.

Between two runs the items of a task may be the same, but a stored report has no answers item by item: shares are
compared as independent ones, by R. Newcombe's hybrid score interval (Statist. Med. 17, 1998, method 10), which takes
the two distances from each figure to the ends of its own interval:

    d - sqrt((p1 - l1)^2 + (u2 - p2)^2)  to  d + sqrt((u1 - p1)^2 + (p2 - l2)^2)

KL divergences are compared in the same way. Throughput and latencies are compared by their repeats, like variants
within a run (`repeats`). Repeats of one session do not cover the variation between sessions, so a change of speed or
size counts only beyond a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import Field

from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.repeats import relative_change
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import HEADLINE, Direction

Movement = Literal["worse", "better", "same", "unknown", "gone", "new"]


class RunName(Frozen):
    """The identification of a run: model, machine, date and load."""

    name: str
    model: str
    machine: str
    measured: str
    load: str


class Snapshot(Frozen):
    """The stored data of one run.

    `settings` are by variant, those of the whole run under an empty name; `devices` by variant, if known.
    """

    run: RunName
    comparison: Comparison
    settings: dict[str, dict[str, str]] = Field({})
    versions: dict[str, str] = Field({})
    devices: dict[str, tuple[str, ...]] = Field({})


class SettingChange(Frozen):
    """A setting or a version that differs between runs; None for a run without it."""

    variant: str
    name: str
    values: tuple[str | None, ...]


class Figure(Frozen):
    """One result of one run."""

    value: float
    interval: Interval | None


class ResultChange(Frozen):
    """One figure of one variant over the runs, the latest run last.

    `change` is from the previous run to the last: in percent, in points for accuracy, in the figure's unit for KL
    divergence. The movement `unknown` means that the two cannot be compared; `reason` says why.
    """

    variant: str
    label: str
    column: str
    title: str
    unit: str
    figures: tuple[Figure | None, ...]
    change: float | None
    interval: Interval | None
    movement: Movement
    reason: str = ""


class History(Frozen):
    """All runs, this one last."""

    runs: tuple[RunName, ...]
    tolerance_percent: float
    settings: tuple[SettingChange, ...]
    versions: tuple[SettingChange, ...]
    results: tuple[ResultChange, ...]

    @property
    def regressions(self) -> tuple[ResultChange, ...]:
        """The figures that became worse beyond noise, or are gone."""
        return tuple(change for change in self.results if change.movement in ("worse", "gone"))


def history(runs: Sequence[Snapshot], tolerance_percent: float) -> History:
    """Compare runs, the oldest first.

    Args:
        runs: at least two; the last is the current one.
        tolerance_percent: change of speed or size between sessions that counts as no change.
    """
    labels = {row.name: row.label for run in runs for row in run.comparison.rows}
    columns = _columns(runs, tolerance_percent)
    return History(
        runs=tuple(run.run for run in runs),
        tolerance_percent=tolerance_percent,
        settings=tuple(_settings(runs)),
        versions=tuple(_differing("", [run.versions for run in runs])),
        results=tuple(
            result
            for name, label in labels.items()
            for column in columns
            if (result := _result(runs, name, label, column)) is not None
        ),
    )


def difference(ours: Figure, theirs: Figure) -> Interval | None:
    """Return Newcombe's interval of the difference of two independent figures."""
    if ours.interval is None or theirs.interval is None:
        return None
    change = ours.value - theirs.value
    below = math.hypot(ours.value - ours.interval.low, theirs.interval.high - theirs.value)
    above = math.hypot(ours.interval.high - ours.value, theirs.value - theirs.interval.low)
    return Interval(low=change - below, high=change + above)


class _Delta(NamedTuple):
    """A change and its interval, or the reason why there is none."""

    change: float | None
    interval: Interval | None
    reason: str = ""


class _Column(NamedTuple):
    """One figure of a row, with the functions that read it and compare two of them."""

    name: str
    title: str
    unit: str
    better: Direction
    tolerance: float
    needs_machine: bool
    cell: Callable[[Row], Any]
    figure: Callable[[Any], Figure]
    compare: Callable[[Any, Any], _Delta]


def _columns(runs: Sequence[Snapshot], tolerance: float) -> list[_Column]:
    tasks = dict.fromkeys(task for run in runs for task in run.comparison.tasks)
    return [
        *(
            _Column(
                c.name, c.title, c.unit, c.better, tolerance, True, partial(_speed_cell, c.name), _speed, _speed_change
            )
            for c in HEADLINE
        ),
        _Column(SIZE, "Checkpoint", "bytes", "lower", tolerance, False, lambda row: row.size, _size, _size_change),
        *(_Column(t, t, "%", "higher", 0.0, False, partial(_task_cell, t), _accuracy, _accuracy_change) for t in tasks),
        _Column(DIVERGENCE, "KL from BF16", "nats/token", "lower", 0.0, False, _kl_cell, _kl, _kl_change),
    ]


def _result(runs: Sequence[Snapshot], name: str, label: str, column: _Column) -> ResultChange | None:
    """Return one figure over the runs; None if no run has it."""
    rows = [next((row for row in run.comparison.rows if row.name == name), None) for run in runs]
    cells = [Missing(reason="not among the results") if row is None else column.cell(row) for row in rows]
    figures = tuple(None if isinstance(cell, Missing) else column.figure(cell) for cell in cells)
    if not any(figures):
        return None
    then, now = cells[-2:]
    found, movement = _Delta(None, None), _movement_of(then, now)
    if movement == "unknown":
        found = _Delta(None, None, now.reason) if isinstance(now, Missing) else _compare(runs, name, column, then, now)
        movement = _moved(found, column)
    return ResultChange(
        variant=name,
        label=label,
        column=column.name,
        title=column.title,
        unit=column.unit,
        figures=figures,
        change=found.change,
        interval=found.interval,
        movement=movement,
        reason=now.reason if movement == "gone" else found.reason,
    )


def _movement_of(then: Any, now: Any) -> Movement:
    """Return `new` or `gone` if only one run has the figure, else `unknown` until the two are compared."""
    if isinstance(then, Missing) == isinstance(now, Missing):
        return "unknown"
    return "new" if isinstance(then, Missing) else "gone"


def _compare(runs: Sequence[Snapshot], variant: str, column: _Column, then: Any, now: Any) -> _Delta:
    before, after = (run.run for run in runs[-2:])
    if before.model != after.model:
        return _Delta(None, None, f"measured with another model ({before.model})")
    if column.needs_machine and before.machine != after.machine:
        return _Delta(None, None, f"measured on another machine ({before.machine})")
    devices, current = (run.devices.get(variant, ()) for run in runs[-2:])
    if column.needs_machine and devices and current and not set(devices) & set(current):
        return _Delta(None, None, f"measured on another device of that kind ({', '.join(devices)})")
    if column.needs_machine and before.load != after.load:
        return _Delta(None, None, f"measured under another load ({before.load})")
    return column.compare(now, then)


def _moved(found: _Delta, column: _Column) -> Movement:
    if found.interval is None:
        return "unknown"
    low, high = found.interval.low, found.interval.high
    if column.better == "lower":
        low, high = -high, -low
    return "worse" if high < -column.tolerance else "better" if low > column.tolerance else "same"


def _speed_cell(metric: str, row: Row) -> SpeedCell | Missing:
    if not row.claims_speed:
        return Missing(reason="emulated: no speed claim")
    return row.speed.get(metric, Missing(reason="not measured"))


def _speed(cell: SpeedCell) -> Figure:
    return Figure(value=cell.measured.mean, interval=cell.measured.interval)


def _speed_change(now: SpeedCell, then: SpeedCell) -> _Delta:
    found = relative_change(now.measured.values, then.measured.values)
    if isinstance(found, Missing):
        return _Delta(None, None, found.reason)
    return _Delta(found.percent, found.interval, found.reason or "")


def _size(cell: SizeCell) -> Figure:
    return Figure(value=float(cell.bytes), interval=None)


def _size_change(now: SizeCell, then: SizeCell) -> _Delta:
    """Bytes are counted, not sampled."""
    percent = 100 * (now.bytes / then.bytes - 1)
    return _Delta(percent, Interval(low=percent, high=percent))


def _task_cell(task: str, row: Row) -> TaskCell | Missing:
    return row.tasks.get(task, Missing(reason=f"{task} was not scored"))


def _accuracy(cell: TaskCell) -> Figure:
    around = cell.accuracy.interval
    return Figure(
        value=100 * cell.accuracy.value,
        interval=None if around is None else Interval(low=100 * around.low, high=100 * around.high),
    )


def _accuracy_change(now: TaskCell, then: TaskCell) -> _Delta:
    if (then.task, then.metric, then.accuracy.asked) != (now.task, now.metric, now.accuracy.asked):
        return _Delta(None, None, "scored on other items")
    return _independent(_accuracy(now), _accuracy(then))


def _kl_cell(row: Row) -> DivergenceCell | Missing:
    return Missing(reason="the baseline itself") if row.is_baseline else row.divergence


def _kl(cell: DivergenceCell) -> Figure:
    return Figure(value=cell.kl.value, interval=cell.kl.interval)


def _kl_change(now: DivergenceCell, then: DivergenceCell) -> _Delta:
    if (then.sequences, then.tokens, then.top_k) != (now.sequences, now.tokens, now.top_k):
        return _Delta(None, None, "measured on another text")
    return _independent(_kl(now), _kl(then))


def _independent(now: Figure, then: Figure) -> _Delta:
    around = difference(now, then)
    return _Delta(now.value - then.value, around, "" if around else "a figure has no interval")


def _settings(runs: Sequence[Snapshot]) -> Iterable[SettingChange]:
    for variant in dict.fromkeys(name for run in runs for name in run.settings):
        # A variant missing from a run would differ in every setting; its results show that it is new or gone.
        if all(variant in run.settings for run in runs):
            yield from _differing(variant, [run.settings[variant] for run in runs])


def _differing(variant: str, runs: Sequence[Mapping[str, str]]) -> Iterable[SettingChange]:
    for name in dict.fromkeys(name for run in runs for name in run):
        values = tuple(run.get(name) for run in runs)
        if len(set(values)) > 1:
            yield SettingChange(variant=variant, name=name, values=values)
