"""The table of results: one row per variant, one column per metric in one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.repeats import Change
from pipeline.compare.words import is_reliable, legend
from pipeline.results import metrics
from pipeline.results.text import capitalized, clean
from pipeline.stages.report.blocks import (
    PAGE,
    Block,
    Cell,
    CellRow,
    CellTable,
    Details,
    Heading,
    Legend,
    Section,
    Table,
)
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import decimals, format_interval, number, signed, size_unit
from pipeline.stages.report.sections.result_cells import (
    ResultColumn,
    divergence_of,
    divergence_scale,
    footnote_lines,
    size_cell,
    speed_cell,
    task_cell,
)


def section(report: Report) -> Section:
    """Return the table, its legend, and every metric of the benchmark."""
    results = Results.of(report.comparison)
    table = CellTable("Variant", results.columns, results.rows, "Results", legend=results.legend)
    blocks: list[Block] = [table]
    if report.comparison.is_measured:
        hint = "↑ more is better, ↓ less is better. Click a heading to sort."
        blocks.append(Legend([hint], media=PAGE))
    if tables := metric_tables(report.comparison):
        inside: list[Block] = [block for table in tables for block in (Heading(table.caption), table)]
        blocks.append(Details("Every metric of the benchmark, with intervals", inside, media=PAGE))
    return Section("results", "Results", "Results", blocks)


@dataclass(frozen=True)
class ResultRow(CellRow):
    """One variant's cells, in the order of the columns."""

    name: str = ""


@dataclass(frozen=True)
class Results:
    """The comparison as a table."""

    comparison: Comparison
    columns: tuple[ResultColumn, ...] = ()

    @classmethod
    def of(cls, comparison: Comparison) -> Results:
        """Build the table, with unit and decimals for each column."""
        return cls(comparison, tuple(_columns(comparison)))

    @cached_property
    def rows(self) -> tuple[ResultRow, ...]:
        """Every variant, including those without a result."""
        return tuple(
            ResultRow(
                label=row.label,
                cells=tuple(self._cell(row, column) for column in self.columns),
                is_highlighted=row.is_baseline,
                remark="baseline" if row.is_baseline else "",
                name=row.name,
            )
            for row in self.comparison.rows
        )

    @property
    def legend(self) -> list[str]:
        """Lines that explain the cells that occur."""
        cells = [cell for row in self.rows for cell in row.cells]
        lines = []
        if any(cell.change for cell in cells):
            lines.append(
                "Below a figure is its difference from BF16 with the 95 % interval: percent for speed, points on the "
                "same items for accuracy; for the checkpoint it is the ratio."
            )
        if any(column.kind == "divergence" for column in self.columns):
            lines.append(
                "KL from BF16: divergence of the next-token distribution from BF16's, a lower bound, with its 95 % "
                "interval."
            )
        if words := legend(cell.word for cell in cells):
            lines.append(f"{words}. Accuracy is corrected for all comparisons of the table.")
        lines += precision_lines(self.comparison)
        if any(cell.is_best for cell in cells):
            lines.append(
                "Best: the best figure of a column, and clearly better than BF16's; its lead over the next may be one "
                "of chance."
            )
        lines += footnote_lines({note for cell in cells for note in cell.footnotes})
        compared = [cell for row in self.rows if not row.is_highlighted for cell in row.cells if cell.change_missing]
        reasons = dict.fromkeys(
            f"{'Interval of the difference' if cell.change else 'Difference'} not measured: {cell.change_missing}."
            for cell in compared
        )
        return [*lines, *reasons, *self.comparison.notes]

    def _cell(self, row: Row, column: ResultColumn) -> Cell:
        best = row.name in self.comparison.best.get(column.name, ())
        if column.kind == "speed":
            reliable = is_reliable(self.comparison, row)
            return speed_cell(row, row.speed[column.name], column, best, is_reliable=reliable)
        if column.kind == "size":
            return size_cell(row.size, column, best)
        if column.kind == "divergence":
            return divergence_of(row, column, best)
        return task_cell(row.tasks[column.name], column, best)


def precision_lines(comparison: Comparison) -> list[str]:
    """Return what the intervals of the speeds hold together, and the smallest gain that the run could have shown."""
    lines = []
    changes = [
        cell.change
        for row in comparison.rows
        for cell in row.speed.values()
        if isinstance(cell, SpeedCell) and isinstance(cell.change, Change) and cell.change.interval
    ]
    if changes:
        lines.append("The intervals of a speed's differences from BF16 hold for all variants together (Dunnett).")
    if limits := dict.fromkeys(change.qualification for change in changes if change.qualification):
        lines.append(f"{capitalized('; '.join(limits))}: two starts of one server may differ by as much.")
    if comparison.smallest_gains:
        parts = [
            f"{metric.title} {gain:.1f} %"
            for metric in comparison.metrics
            if (gain := comparison.smallest_gains.get(metric.name)) is not None
        ]
        lines.append(f"This run could have shown a gain of this size or more with 80 % power: {', '.join(parts)}.")
    return lines


def _columns(comparison: Comparison) -> Sequence[ResultColumn]:
    speed, quality = "speed and size", "quality"
    columns = []
    for metric in comparison.metrics:
        cells = [row.speed[metric.name] for row in comparison.rows]
        digits = min(2, decimals(cell.measured.mean for cell in cells if isinstance(cell, SpeedCell)))
        columns.append(
            ResultColumn(metric.title, metric.unit, metric.name, "speed", digits, better=metric.better, group=speed)
        )
    unit, scale = size_unit([row.size.bytes for row in comparison.rows if isinstance(row.size, SizeCell)])
    sizes = [row.size.bytes / scale for row in comparison.rows if isinstance(row.size, SizeCell)]
    digits = min(decimals(sizes), 2)
    columns.append(ResultColumn("Checkpoint", unit, SIZE, "size", digits, scale, better="lower", group=speed))
    for task in comparison.tasks:
        tested = [row.tasks[task] for row in comparison.rows]
        many = all(cell.accuracy.n >= 1000 for cell in tested if isinstance(cell, TaskCell))
        columns.append(ResultColumn(task, "%", task, "task", 2 if many else 1, 0.01, better="higher", group=quality))
    # Without any measurement the column is left out.
    if any(row.perplexity is not None for row in comparison.rows):
        unit, scale, digits = divergence_scale(comparison)
        columns.append(
            ResultColumn("KL from BF16", unit, DIVERGENCE, "divergence", digits, scale, better="lower", group=quality)
        )
    return columns


def metric_tables(comparison: Comparison) -> list[Table]:
    """Return every metric of the benchmark per variant: mean, interval and range over repeats, and the change."""
    found = []
    for name in dict.fromkeys(name for row in comparison.rows for name in row.details):
        cells = [(row, cell) for row in comparison.rows if isinstance(cell := row.details.get(name), SpeedCell)]
        if not cells:
            continue
        unit, digits = cells[0][1].measured.unit, decimals(cell.measured.mean for _, cell in cells)
        # Figures in another unit do not fit this heading.
        shown = [(row, cell) for row, cell in cells if cell.measured.unit == unit]
        head = ("Variant", f"Mean ({unit})", "95 %", "Range", "Repeats", "Against BF16", "95 %")
        found.append(
            Table(head, [_metric_row(row, cell, digits) for row, cell in shown], clean(metrics.title(name), 60))
        )
    capacity = [(r.label, f"{r.kv_cache_tokens:,}") for r in comparison.rows if r.kv_cache_tokens is not None]
    return [*found, Table(("Variant", "Tokens"), capacity, "KV-cache capacity")] if capacity else found


def _metric_row(row: Row, cell: SpeedCell, digits: int) -> tuple[str, ...]:
    measured, change = cell.measured, cell.change
    mean = number(measured.mean, digits)
    inside = (format_interval(each, partial(number, digits=digits)) for each in (measured.interval, measured.spread))
    against = f"{signed(change.percent)} %" if isinstance(change, Change) else ""
    around = f"{format_interval(change.interval, signed)} %" if isinstance(change, Change) and change.interval else ""
    return (row.label, mean, *inside, str(len(measured.values)), against, around)
