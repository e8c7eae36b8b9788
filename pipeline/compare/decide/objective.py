"""The quantity that a recommendation optimizes: throughput at a load, time per output token alone, or size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.compare.comparison import Comparison, Row, SizeCell, SpeedCell
from pipeline.compare.decide.differences import change_of, serves_more, throughput_over
from pipeline.compare.statements import Claim, percent_range, within_text
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.measurement_model import RepeatsNeeded
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.metrics import TPOT

Name = Literal["throughput", "tpot", "size"]
# A request alone has the whole server; the highest level has the longest queue.
ALONE = "concurrency 1"
SLOTS = "concurrency "


def under(load: str | None) -> str:
    """Describe a load by its name, within a sentence; empty if it has none."""
    if load is None:
        return ""
    if load == ALONE:
        return "one request at a time"
    if load.startswith(SLOTS):
        return f"at {load.removeprefix(SLOTS)} requests in flight"
    if load == "rate inf":
        return "with all requests sent at once"
    return f"under the load {load}"


def cell_at(row: Row, metric: str, load: str | None) -> SpeedCell | Missing:
    """Return a metric under a load; without a load, under the one of the tables."""
    cells, reason = row.details, "not measured"
    if load is not None and load != row.headline:
        loads = (each for benchmark in row.benchmarks.values() for each in benchmark.loads)
        cells = next((each.cells for each in loads if each.name == load), {})
        reason = f"not measured {under(load)}"
    shown = row.speed[row.throughput]
    return cells.get(metric, shown if isinstance(shown, Missing) else Missing(reason=reason))


@dataclass(frozen=True)
class Objective:
    """The order of variants by one quantity, and the words for it."""

    comparison: Comparison
    name: Name = "throughput"

    @property
    def noun(self) -> str:
        """The quantity in words."""
        throughput = within_text(self.comparison.throughput.title)
        return {"throughput": throughput, "tpot": "time per output token", "size": "checkpoint size"}[self.name]

    @property
    def load(self) -> str | None:
        """The load at which it is judged."""
        headlines = [row.headline for row in self.comparison.rows if row.headline is not None]
        if self.name == "tpot" and any(self._has(row, ALONE) for row in self.comparison.rows):
            return ALONE
        return headlines[0] if headlines and self.name != "size" else None

    @property
    def is_speed(self) -> bool:
        """True if it is measured by the benchmark."""
        return self.name != "size"

    def marks(self, row: Row) -> tuple[str, ...]:
        """Return the guards that failed while a variant's figure was measured."""
        return row.marks_at(self.load) if self.is_speed else ()

    def figure(self, row: Row) -> float | None:
        """Return a variant's figure."""
        cell = self._cell(row)
        if isinstance(cell, Missing):
            return None
        return float(cell.bytes) if isinstance(cell, SizeCell) else cell.measured.mean

    def rank(self, row: Row) -> float:
        """Return a number that is larger the better; minus infinity without a figure."""
        figure = self.figure(row)
        if figure is None:
            return float("-inf")
        return figure if self.name == "throughput" else -figure

    def order(self, rows: Iterable[Row]) -> list[Row]:
        """Return variants from the best to the worst; of those that are equal, the least divergent from BF16 first."""
        rest, ordered = sorted(rows, key=self.rank, reverse=True), []
        while rest:
            best = rest[0]
            equals = [row.name for row in rest if row is best or self.is_equal(row, best)]
            ordered += sorted((row for row in rest if row.name in equals), key=divergence)
            rest = [row for row in rest if row.name not in equals]
        return ordered

    def is_equal(self, row: Row, other: Row) -> bool:
        """Return True if two variants are shown to differ by no more than `report.tolerance_percent`."""
        change, tolerance = self.between(row, other), self.comparison.models.tolerance_percent
        if change is None or change.interval is None:
            return False
        return -tolerance <= change.interval.low and change.interval.high <= tolerance

    def change(self, row: Row) -> Change | None:
        """Return the change from BF16 that may be claimed; None if there is none."""
        if self.name == "throughput":
            return change_of(row, row.throughput)
        cell = self._cell(row)
        if isinstance(cell, SizeCell):
            return None if isinstance(cell.ratio, Missing) else _exact(100 * (cell.ratio - 1))
        if isinstance(cell, Missing) or isinstance(cell.change, Missing):
            return None
        return cell.change

    def gains(self, row: Row) -> bool:
        """Return True if the variant is clearly better than BF16."""
        change = self.change(row)
        return change is not None and self.is_better(change)

    def is_better(self, change: Change) -> bool:
        """Return True if a change is a clear gain."""
        return change.is_clear and (change.percent > 0) == (self.name == "throughput")

    def between(self, row: Row, other: Row) -> Change | None:
        """Return the change from another variant to this one; None if either has no figure that may be claimed."""
        if self.name == "throughput":
            return throughput_over(self.comparison, row, other)
        ours, theirs = self._cell(row), self._cell(other)
        if isinstance(ours, Missing) or isinstance(theirs, Missing):
            return None
        if isinstance(ours, SizeCell) or isinstance(theirs, SizeCell):
            assert isinstance(ours, SizeCell) and isinstance(theirs, SizeCell)
            return _exact(100 * (ours.bytes / theirs.bytes - 1)) if theirs.bytes else None
        models = self.comparison.models
        group = models.shared(row.name, other.name, self.load)
        if group is None or models.incomparable(group, TPOT.name, row.name, other.name):
            return None
        change = models.model(group, TPOT.name).pair(row.name, other.name)
        return change if isinstance(change, Change) else None

    def repeats_needed(self, row: Row, other: Row) -> RepeatsNeeded | None:
        """Return the repeats or blocks that would separate two variants; None if none can be named."""
        if self.between(row, other) is None:
            return None
        models, metric = self.comparison.models, self.column()
        group = models.shared(row.name, other.name, self.load) if self.name == "tpot" else models.headline(row.name)
        assert group is not None
        family = models.family(group)
        return models.model(group, metric).repeats_needed(row.name, other.name, self.comparison.baseline, family)

    def column(self) -> str:
        """Return the column of the tables that it is in."""
        return {"throughput": self.comparison.throughput.name, "tpot": TPOT.name, "size": "size"}[self.name]

    def claim(self, row: Row, change: Change, against: str = "bf16") -> Claim:
        """Return a change as a claim."""
        assert change.interval is not None
        return Claim(variant=row.name, against=against, column=self.column(), interval=change.interval)

    def lead(self, row: Row, change: Change) -> str:
        """Return a gain over BF16 as a clause."""
        at = under(self.load)
        at = f", {at}" if at else ""
        if self.name == "throughput":
            return f"{serves_more(row, change)}{at}"
        if self.name == "size":
            return f"{row.label}'s checkpoint is {-change.percent:.0f} % smaller than BF16's"
        limit = f"; {change.qualification}" if change.qualification else ""
        return (
            f"{row.label} takes {-change.percent:.1f} % less time per output token than BF16 (95 % interval "
            f"{percent_range(change)} %{limit}){at}"
        )

    def better(self, row: Row, other: Row, change: Change) -> str:
        """Return a gain over another variant as a clause."""
        if self.name == "throughput":
            more = f"{change.percent:.1f} % more tokens per second{row.per_gpu}"
            return f"{row.label} serves {more} ({percent_range(change)} %)"
        if self.name == "size":
            return f"{row.label} is {-change.percent:.0f} % smaller"
        return f"{row.label} takes {-change.percent:.1f} % less time per output token ({percent_range(change)} %)"

    def shown(self, row: Row) -> str:
        """Return a variant's figure with its unit."""
        figure = self.figure(row) or 0.0
        if self.name == "throughput":
            return f"{figure:,.0f} tok/s{row.per_gpu}"
        return f"{figure / 1e9:,.2f} GB" if self.name == "size" else f"{figure:,.1f} ms per token"

    def _cell(self, row: Row) -> SpeedCell | SizeCell | Missing:
        if self.name == "size":
            return row.size
        if self.name == "throughput":
            return row.speed[row.throughput]
        found = cell_at(row, TPOT.name, self.load)
        return row.speed[TPOT.name] if isinstance(found, Missing) and self.load == row.headline else found

    @staticmethod
    def _has(row: Row, load: str) -> bool:
        return any(each.name == load for benchmark in row.benchmarks.values() for each in benchmark.loads)


def divergence(row: Row) -> float:
    """Return the KL divergence from BF16; infinite where it was not measured."""
    return row.divergence.kl.value if isinstance(row.divergence, DivergenceCell) else float("inf")


def more_divergent(row: Row, best: Row) -> str:
    """Name a variant, with its divergence beside that of the best where both were measured."""
    theirs, least = divergence(row), divergence(best)
    if math.isinf(theirs) or math.isinf(least):
        return row.label
    return f"{row.label} (KL from BF16 {1000 * theirs:.3g} × 10⁻³ nats per token, against {1000 * least:.3g})"


def _exact(percent: float) -> Change:
    """Return a change that is counted, not sampled."""
    return Change(percent=percent, interval=Interval(low=percent, high=percent), p_value=float(percent == 0))
