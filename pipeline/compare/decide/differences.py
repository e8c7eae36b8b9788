"""What one row of the comparison shows against BF16: the differences that may be talked about."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.statements import Claim, percent_range
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL, Interval, holm
from pipeline.compare.stats.repeats import Change, relative_change
from pipeline.results.metrics import THROUGHPUT


def baseline_of(comparison: Comparison) -> Row | None:
    """The BF16 row."""
    return next((row for row in comparison.rows if row.is_baseline), None)


def change_of(row: Row, metric: str) -> Change | None:
    """A change that may be talked about: not of an emulated variant."""
    cell = row.speed.get(metric)
    if not row.claims_speed or not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return None
    return cell.change


def gains(row: Row) -> bool:
    """Whether it serves clearly more tokens per second than BF16."""
    change = change_of(row, THROUGHPUT.name)
    return change is not None and change.is_clear and change.percent > 0


def corrected(comparison: Comparison) -> dict[str, float]:
    """The p-value of each variant's change in throughput, corrected for all that were timed: many looks find chance."""
    changes = {row.name: change_of(row, THROUGHPUT.name) for row in comparison.rows if not row.is_baseline}
    return holm({name: change.p_value for name, change in changes.items() if change and change.p_value is not None})


def stands_out(row: Row, p_values: Mapping[str, float]) -> bool:
    """Whether its change in throughput is clear among all that were looked at."""
    return p_values.get(row.name, 1.0) < 1 - LEVEL


def is_uncertain(row: Row) -> bool:
    """Whether its throughput has no interval."""
    change = change_of(row, THROUGHPUT.name)
    return change is not None and change.interval is None


def intervals(row: Row) -> dict[str, Interval]:
    """The intervals of the accuracy differences, by task."""
    return {task: change.interval for task, change in paired(row).items() if change.interval is not None}


def paired(row: Row) -> dict[str, PairedDifference]:
    """The accuracy differences from BF16, by task."""
    return {
        task: cell.change
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference)
    }


def is_scored(row: Row) -> bool:
    """Whether every task was compared with BF16, with an interval."""
    return bool(row.tasks) and len(intervals(row)) == len(row.tasks)


def clear(row: Row) -> dict[str, PairedDifference]:
    """Those that are beyond noise."""
    return {task: change for task, change in paired(row).items() if change.is_clear}


def losses(row: Row) -> dict[str, PairedDifference]:
    """Those that are clearly lower."""
    return {task: change for task, change in clear(row).items() if change.difference < 0}


def wins(row: Row) -> dict[str, PairedDifference]:
    """Those that are clearly higher."""
    return {task: change for task, change in clear(row).items() if change.difference > 0}


def throughput_over(row: Row, other: Row) -> Change | None:
    """The change in throughput from another row to this one; None where either makes no claim with its speed."""
    ours, theirs = row.speed[THROUGHPUT.name], other.speed[THROUGHPUT.name]
    if not isinstance(ours, SpeedCell) or not isinstance(theirs, SpeedCell):
        return None
    if not row.claims_speed or not other.claims_speed:
        return None
    change = relative_change(ours.measured.values, theirs.measured.values)
    return change if isinstance(change, Change) else None


def mean_throughput(row: Row) -> float:
    """Tokens per second, 0 where they were not measured."""
    cell = row.speed[THROUGHPUT.name]
    return cell.measured.mean if isinstance(cell, SpeedCell) else 0.0


def by_throughput(comparison: Comparison) -> list[Row]:
    """All but BF16, the fastest first."""
    return sorted((row for row in comparison.rows if not row.is_baseline), key=mean_throughput, reverse=True)


def claim(row: Row, column: str, change: Change | PairedDifference) -> Claim:
    """A difference from BF16 as the claim of a sentence."""
    assert change.interval is not None
    return Claim(variant=row.name, against="bf16", column=column, interval=change.interval)


def serves_more(row: Row, change: Change) -> str:
    """The gain in throughput in words."""
    around = percent_range(change)
    return f"{row.label} serves {change.percent:.1f} % more tokens per second than BF16 (95 % interval {around} %)"
