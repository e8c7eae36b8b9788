"""Differences of one row of the comparison from BF16: those that may be claimed."""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import stdtrit

from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.statements import Claim, percent_range
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.repeats import Change, relative_change
from pipeline.results.base import Frozen, Missing
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


def is_uncertain(row: Row) -> bool:
    """Return True if its change in throughput has no interval."""
    change = change_of(row, THROUGHPUT.name)
    return change is not None and change.interval is None


def throughput_over(comparison: Comparison, row: Row, other: Row) -> Change | None:
    """Return the change in throughput from another row to this one; None if either makes no speed claim."""
    change = speed_between(comparison, THROUGHPUT.name, row.name, other.name)
    return change if isinstance(change, Change) else None


def speed_between(
    comparison: Comparison,
    metric: str,
    ours: str,
    theirs: str,
    comparisons: int | Literal["all"] = 1,
    level: float = LEVEL,
) -> Change | Missing:
    """Return the change of a metric between two rows, corrected for that many comparisons by C. Bonferroni."""
    rows = {row.name: row for row in comparison.rows}
    one, other = rows[ours], rows[theirs]
    cells = one.speed[metric], other.speed[metric]
    for row, cell in zip((one, other), cells, strict=True):
        if not row.claims_speed:
            return Missing(reason="emulated here: no speed claim")
        if isinstance(cell, Missing):
            return cell
        if isinstance(cell.change, Missing) and "another machine" in cell.change.reason:
            return cell.change
    assert not isinstance(cells[0], Missing) and not isinstance(cells[1], Missing)
    change = relative_change(cells[0].measured.values, cells[1].measured.values)
    if isinstance(change, Missing) or change.interval is None or change.p_value is None:
        return change
    number = len(rows) * (len(rows) - 1) // 2 if comparisons == "all" else comparisons
    freedom = min(len(cell.measured.values) for cell in cells if isinstance(cell, SpeedCell)) - 1
    factor = float(stdtrit(freedom, (1 - level) / 2 / number) / stdtrit(freedom, (1 - LEVEL) / 2))
    centre = math.log1p(change.percent / 100)
    low, high = (math.log1p(each / 100) for each in (change.interval.low, change.interval.high))
    interval = Interval(
        low=100 * math.expm1(centre - factor * (centre - low)), high=100 * math.expm1(centre + factor * (high - centre))
    )
    return change.model_copy(update={"interval": interval})


class RepeatsNeeded(Frozen):
    """The repeats, or blocks, that would separate two variants."""

    unit: Literal["repeats", "blocks"]
    low: int
    likely: int
    high: int | None
    text: str


def repeats_needed(comparison: Comparison, row: Row, other: Row) -> RepeatsNeeded | None:
    """Return None: there may be no difference."""
    return None


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
