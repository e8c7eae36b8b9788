"""Differences of one row of the comparison from BF16: those that may be claimed."""

from __future__ import annotations

from typing import Literal

from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.statements import Claim, percent_range
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing


def baseline_of(comparison: Comparison) -> Row | None:
    """Return the BF16 row."""
    return next((row for row in comparison.rows if row.is_baseline), None)


def change_of(row: Row, metric: str) -> Change | None:
    """Return a change that may be claimed; None if there is none."""
    cell = row.speed.get(metric)
    if not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return None
    return cell.change


def gains(row: Row) -> bool:
    """Return True if its throughput is clearly higher than BF16's."""
    change = change_of(row, row.throughput)
    return change is not None and change.is_clear and change.percent > 0


def throughput_over(comparison: Comparison, row: Row, other: Row) -> Change | None:
    """Return the change in throughput from another row to this one, of this pair alone; None if it is no claim."""
    change = speed_between(comparison, comparison.throughput.name, row.name, other.name)
    return change if isinstance(change, Change) else None


def speed_between(
    comparison: Comparison,
    metric: str,
    ours: str,
    theirs: str,
    comparisons: Literal[1, "all"] = 1,
    level: float = LEVEL,
) -> Change | Missing:
    """Return the change of a metric of the table from one row to another, by the model of all variants.

    Args:
        comparison: the table.
        metric: its name.
        ours: name of the row whose figure is the larger for a positive change.
        theirs: name of the other row.
        comparisons: 1 for the interval of this pair alone, "all" for one simultaneous over all pairs (Tukey).
        level: of the interval, or of all pairs together.
    """
    rows = {row.name: row for row in comparison.rows}
    for row in (rows[ours], rows[theirs]):
        cell = row.speed[metric]
        if not isinstance(cell, SpeedCell):
            return cell
    groups = {comparison.models.headline(name) for name in (ours, theirs)}
    if len(groups) > 1:
        return Missing(reason="measured on another machine, or under another load")
    group = groups.pop()
    if reason := comparison.models.incomparable(group, metric, ours, theirs):
        return Missing(reason=reason)
    family = comparison.models.family(group) if comparisons == "all" else None
    return comparison.models.model(group, metric).pair(ours, theirs, family, level)


def variation(row: Row | None) -> float | None:
    """Return the largest throughput of a row's repeats over the smallest; None with fewer than two."""
    cell = None if row is None else row.speed[row.throughput]
    if not isinstance(cell, SpeedCell) or len(cell.measured.values) < 2 or min(cell.measured.values) <= 0:
        return None
    return max(cell.measured.values) / min(cell.measured.values)


def variation_text(comparison: Comparison) -> str:
    """Say by how much BF16's throughput varied between repeats; empty if it is not known."""
    found = variation(baseline_of(comparison))
    if found is None:
        return ""
    return f"BF16 itself varied by {f'{found:.1f} times' if found >= 1.5 else f'{100 * (found - 1):.0f} %'}"


def mean_throughput(row: Row) -> float:
    """Return the mean throughput that decides, in tokens per second, 0 if it was not measured."""
    cell = row.speed[row.throughput]
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
    limit = f"; {change.qualification}" if change.qualification else ""
    around = f"95 % interval {percent_range(change)} %{limit}"
    return f"{row.label} serves {change.percent:.1f} % more tokens per second{row.per_gpu} than BF16 ({around})"
