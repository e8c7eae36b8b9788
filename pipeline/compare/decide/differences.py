"""Differences of one row of the comparison from BF16: those that may be claimed."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.statements import Claim, percent_range
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL, Interval, holm
from pipeline.compare.stats.repeats import Change, relative_change
from pipeline.results.metrics import THROUGHPUT


def baseline_of(comparison: Comparison) -> Row | None:
    """Return the BF16 row."""
    return next((row for row in comparison.rows if row.is_baseline), None)


def change_of(row: Row, metric: str) -> Change | None:
    """Return a change that may be claimed; None for an emulated variant."""
    cell = row.speed.get(metric)
    if not row.claims_speed or not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return None
    return cell.change


def gains(row: Row) -> bool:
    """Return True if its throughput is clearly higher than BF16's."""
    change = change_of(row, THROUGHPUT.name)
    return change is not None and change.is_clear and change.percent > 0


def corrected(comparison: Comparison) -> dict[str, float]:
    """Return the p-value of each variant's change in throughput, corrected for multiple comparisons by Holm."""
    changes = {row.name: change_of(row, THROUGHPUT.name) for row in comparison.rows if not row.is_baseline}
    return holm({name: change.p_value for name, change in changes.items() if change and change.p_value is not None})


def stands_out(row: Row, p_values: Mapping[str, float]) -> bool:
    """Return True if its change in throughput is clear after correction for multiple comparisons."""
    return p_values.get(row.name, 1.0) < 1 - LEVEL


def is_uncertain(row: Row) -> bool:
    """Return True if its change in throughput has no interval."""
    change = change_of(row, THROUGHPUT.name)
    return change is not None and change.interval is None


def intervals(row: Row) -> dict[str, Interval]:
    """Return the intervals of the accuracy differences, by task."""
    return {task: change.interval for task, change in paired(row).items() if change.interval is not None}


def paired(row: Row) -> dict[str, PairedDifference]:
    """Return the accuracy differences from BF16, by task."""
    return {
        task: cell.change
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference)
    }


def is_scored(row: Row) -> bool:
    """Return True if every task has an accuracy difference from BF16 with an interval."""
    return bool(row.tasks) and len(intervals(row)) == len(row.tasks)


def clear(row: Row) -> dict[str, PairedDifference]:
    """Return the accuracy differences beyond noise, by task."""
    return {task: change for task, change in paired(row).items() if change.is_clear}


def losses(row: Row) -> dict[str, PairedDifference]:
    """Return the clear losses of accuracy, by task."""
    return {task: change for task, change in clear(row).items() if change.difference < 0}


def wins(row: Row) -> dict[str, PairedDifference]:
    """Return the clear gains of accuracy, by task."""
    return {task: change for task, change in clear(row).items() if change.difference > 0}


def throughput_over(row: Row, other: Row) -> Change | None:
    """Return the change in throughput from another row to this one; None if either makes no speed claim."""
    ours, theirs = row.speed[THROUGHPUT.name], other.speed[THROUGHPUT.name]
    if not isinstance(ours, SpeedCell) or not isinstance(theirs, SpeedCell):
        return None
    if not row.claims_speed or not other.claims_speed:
        return None
    change = relative_change(ours.measured.values, theirs.measured.values)
    return change if isinstance(change, Change) else None


def mean_throughput(row: Row) -> float:
    """Return the mean throughput in tokens per second, 0 if it was not measured."""
    cell = row.speed[THROUGHPUT.name]
    return cell.measured.mean if isinstance(cell, SpeedCell) else 0.0


def by_throughput(comparison: Comparison) -> list[Row]:
    """Return all rows but BF16, the fastest first."""
    return sorted((row for row in comparison.rows if not row.is_baseline), key=mean_throughput, reverse=True)


def claim(row: Row, column: str, change: Change | PairedDifference) -> Claim:
    """Return a difference from BF16 as a claim."""
    assert change.interval is not None
    return Claim(variant=row.name, against="bf16", column=column, interval=change.interval)


def serves_more(row: Row, change: Change) -> str:
    """Return the gain in throughput in words."""
    around = percent_range(change)
    return f"{row.label} serves {change.percent:.1f} % more tokens per second than BF16 (95 % interval {around} %)"
