"""The study's table as text: columns with one unit each, and what stands in each cell.

Every renderer shows these cells; none of them formats a figure of its own, so all formats say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pipeline.compare.calibration_sweep import Sweep
from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Missing
from pipeline.results.records import Family
from pipeline.stages.report.number_format import decimals, number, signed, size_unit

NO_SPEED_CLAIM = "emulated: no speed claim"
MARKED = "marked"
EMULATED_BASELINE = "BF16 emulated: no speed claim"


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    title: str
    unit: str
    kind: str
    better: str
    digits: int
    scale: float = 1.0


@dataclass(frozen=True)
class Cell:
    """A figure with its difference from BF16, or `n/a` with the reason."""

    value: str = ""
    interval: str = ""
    change: str = ""
    change_interval: str = ""
    change_missing: str = ""
    evidence: str = ""
    is_clear: bool = False
    is_gain: bool = False
    is_best: bool = False
    note: str = ""
    missing: str = ""
    # The figure itself, for sorting.
    order: float | None = None

    @property
    def star(self) -> str:
        """The mark of a difference whose interval excludes zero."""
        return "*" if self.is_clear else ""

    @property
    def text(self) -> str:
        """All of it in one line."""
        if self.missing:
            return f"n/a: {self.missing}"
        inside = "; ".join(part for part in (f"{self.change}{self.star}" if self.change else "", self.note) if part)
        return f"{self.value} ({inside})" if inside else self.value

    @property
    def hover(self) -> str:
        """Intervals and evidence, for whoever points at the cell."""
        parts = (
            f"95 %: {self.interval}" if self.interval else "",
            f"difference 95 %: {self.change_interval}" if self.change_interval else "",
            f"difference n/a: {self.change_missing}" if self.change_missing else "",
            self.evidence,
        )
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class TableRow:
    """One variant's cells, in the order of the columns."""

    name: str
    label: str
    family: Family
    is_baseline: bool
    is_emulated: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The study's table."""

    comparison: Comparison
    columns: tuple[Column, ...] = field(default=())

    @classmethod
    def of(cls, comparison: Comparison) -> Table:
        """Chooses units and decimals for each column."""
        return cls(comparison, tuple(_columns(comparison)))

    @cached_property
    def rows(self) -> tuple[TableRow, ...]:
        """Every variant, also those without a result."""
        return tuple(
            TableRow(
                name=row.name,
                label=row.label,
                family=row.family,
                is_baseline=row.is_baseline,
                is_emulated=bool(row.emulated),
                cells=tuple(self._cell(row, column) for column in self.columns),
            )
            for row in self.comparison.rows
        )

    @property
    def legend(self) -> list[str]:
        """How to read the cells, as lines; only what occurs."""
        cells = [cell for row in self.rows for cell in row.cells]
        lines = []
        if any(cell.change for cell in cells):
            lines.append(
                "A cell's second figure is the difference from BF16: percent for speed, points on the same items for "
                "accuracy; for the checkpoint it is the ratio."
            )
        if any(column.kind == "divergence" for column in self.columns):
            lines.append(
                "KL from BF16: how much of BF16's next-token distribution is lost, a lower bound; its second figure is "
                "the 95 % interval."
            )
        if any(cell.star for cell in cells):
            lines.append("*: the 95 % interval of the difference excludes zero; without a star no difference is shown.")
        if any(cell.is_best for cell in cells):
            lines.append("Best: the best figure of a column; it need not be clearly better than the next.")
        if any(MARKED in cell.note for cell in cells):
            lines.append("Marked: a guard failed while it was measured; it is named below.")
        if any(NO_SPEED_CLAIM in cell.note or EMULATED_BASELINE in cell.note for cell in cells):
            lines.append(
                "Emulated: this machine has no kernel for the format; its accuracy counts, its speed does not."
            )
        compared = [cell for row in self.rows if not row.is_baseline for cell in row.cells if cell.change_missing]
        reasons = dict.fromkeys(
            f"{'Interval of the difference' if cell.change else 'Difference'} n/a: {cell.change_missing}."
            for cell in compared
        )
        lines += reasons
        return [*lines, *self.comparison.notes]

    def _cell(self, row: Row, column: Column) -> Cell:
        best = row.name in self.comparison.best.get(column.name, ())
        if column.kind == "speed":
            return _speed(row, row.speed[column.name], column, best)
        if column.kind == "size":
            return _size(row.size, column, best)
        if column.kind == "divergence":
            return _divergence(row, column, best)
        return task_cell(row.tasks[column.name], column, best)


def divergence_scale(shown: Comparison | Sweep) -> tuple[str, float, int]:
    """Unit, scale and decimals that suit the smallest of the divergences, which is the one to tell from nothing."""
    found = [cell.kl.value for row in shown.rows if isinstance(cell := row.divergence, DivergenceCell)]
    smallest = min((value for value in found if value > 0), default=0.0)
    unit, scale = ("nats/token", 1.0) if smallest >= 0.1 else ("10⁻³ nats/token", 1e-3)
    return unit, scale, min(decimals([smallest / scale]), 2 if scale < 1 else 3)


def _columns(comparison: Comparison) -> Sequence[Column]:
    columns = []
    for metric in comparison.metrics:
        cells = [row.speed[metric.name] for row in comparison.rows]
        digits = decimals(cell.measured.mean for cell in cells if isinstance(cell, SpeedCell))
        columns.append(Column(metric.name, metric.title, metric.unit, "speed", metric.better, min(digits, 2)))
    unit, scale = size_unit([row.size.bytes for row in comparison.rows if isinstance(row.size, SizeCell)])
    sizes = [row.size.bytes / scale for row in comparison.rows if isinstance(row.size, SizeCell)]
    columns.append(Column(SIZE, "Checkpoint", unit, "size", "lower", min(decimals(sizes), 2), scale))
    for task in comparison.tasks:
        tested = [row.tasks[task] for row in comparison.rows]
        many = all(cell.accuracy.n >= 1000 for cell in tested if isinstance(cell, TaskCell))
        columns.append(Column(task, task, "%", "task", "higher", 2 if many else 1, 0.01))
    # Without a single measurement there is nothing to say why each is missing.
    if any(row.perplexity is not None for row in comparison.rows):
        unit, scale, digits = divergence_scale(comparison)
        columns.append(Column(DIVERGENCE, "KL from BF16", unit, "divergence", "lower", digits, scale))
    return columns


def _range(interval: Interval | None, show: Callable[[float], str]) -> str:
    return "" if interval is None else f"{show(interval.low)} to {show(interval.high)}"


def _speed(row: Row, cell: SpeedCell | Missing, column: Column, best: bool) -> Cell:
    if isinstance(cell, Missing):
        return Cell(missing=cell.reason)
    measured, change = cell.measured, cell.change

    def show(value: float) -> str:
        return number(value, column.digits)

    repeats = f"{len(measured.values)} repeat{'' if len(measured.values) == 1 else 's'}"
    shown = Cell(
        value=show(measured.mean),
        order=measured.mean,
        interval=_range(measured.interval, show),
        evidence=f"{repeats}, {_range(measured.spread, show)}",
        is_best=best,
        note="; ".join(_speed_notes(row)),
    )
    if isinstance(change, Missing):
        return replace(shown, change_missing=change.reason)
    clear = row.claims_speed and change.is_clear
    if change.interval is not None and not clear and row.claims_speed:
        shown = replace(shown, evidence=f"{shown.evidence}; no difference shown")
    return replace(
        shown,
        change=f"{signed(change.percent)} %",
        change_interval=f"{_range(change.interval, signed)} %" if change.interval else "",
        change_missing=change.reason or "",
        is_clear=clear,
        is_gain=clear and (change.percent > 0) == (column.better == "higher"),
    )


def _speed_notes(row: Row) -> list[str]:
    """What a reader must know of a speed: emulated, or measured while a guard failed."""
    emulated = NO_SPEED_CLAIM if row.emulated else EMULATED_BASELINE
    return [*([] if row.claims_speed else [emulated]), *([MARKED] if row.marks else [])]


def _size(cell: SizeCell | Missing, column: Column, best: bool) -> Cell:
    if isinstance(cell, Missing):
        return Cell(missing=cell.reason)
    return Cell(
        value=number(cell.bytes / column.scale, column.digits),
        order=cell.bytes,
        change="" if isinstance(cell.ratio, Missing) else f"{cell.ratio:.2f}×",
        change_missing=cell.ratio.reason if isinstance(cell.ratio, Missing) else "",
        evidence=f"{cell.bytes:,} bytes",
        is_best=best,
    )


def task_cell(cell: TaskCell | Missing, column: Column, best: bool) -> Cell:
    """A task's accuracy with its difference from BF16."""
    if isinstance(cell, Missing):
        return Cell(missing=cell.reason)
    score, change = cell.accuracy, cell.change

    def show(value: float) -> str:
        return number(100 * value, column.digits)

    def points(value: float) -> str:
        return signed(100 * value, column.digits)

    shown = Cell(
        value=show(score.value),
        order=score.value,
        interval=f"{_range(score.interval, show)} %" if score.interval else "",
        evidence=", ".join(
            [f"{score.n:,} items", *(f"{show(each)} % by {name}" for name, each in cell.filters.items())]
        ),
        is_best=best,
    )
    if isinstance(change, Missing):
        return replace(shown, change_missing=change.reason)
    counts = f"{change.gained} only here, {change.lost} only with BF16"
    return replace(
        shown,
        change=points(change.difference),
        change_interval=f"{_range(change.interval, points)} points" if change.interval else "",
        evidence=f"{shown.evidence}, {counts}, p = {change.p_value:.2g}{_loss(cell)}",
        is_clear=change.is_clear,
        is_gain=change.is_clear and change.difference > 0,
    )


def _loss(cell: TaskCell) -> str:
    """The verdict on the loss, with the p-value that it rests on."""
    loss = cell.loss
    return "" if isinstance(loss, Missing) else f" ({loss.p_holm:.2g} by Holm over the table), {loss.text}"


def _divergence(row: Row, column: Column, best: bool) -> Cell:
    cell = row.divergence
    if row.is_baseline and row.perplexity is not None:
        again = isinstance(cell, DivergenceCell) and number(cell.kl.value / column.scale, column.digits)
        return Cell(value="baseline", order=0.0, evidence=f"from itself, asked again: {again}" if again else "")
    return replace(divergence_cell(cell, column), is_best=best)


def divergence_cell(cell: DivergenceCell | Missing, column: Column) -> Cell:
    """A divergence with its interval as the second figure."""
    if isinstance(cell, Missing):
        return Cell(missing=cell.reason)

    def show(value: float) -> str:
        return number(value / column.scale, column.digits)

    ends = _range(cell.kl.interval, show)
    return Cell(
        value=show(cell.kl.value),
        order=cell.kl.value,
        interval=f"{ends} {column.unit}" if ends else "",
        change=ends or "no interval",
        evidence=f"{cell.tokens:,} tokens of {cell.sequences:,} sequences",
    )
