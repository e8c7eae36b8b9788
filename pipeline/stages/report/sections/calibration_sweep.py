"""Results of one variant by calibration: technique and number of samples."""

from __future__ import annotations

from dataclasses import replace

from pipeline.compare.calibration_sweep import Sweep, SweepRow
from pipeline.compare.comparison import DIVERGENCE
from pipeline.compare.stats.accuracy import Mean
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.words import legend
from pipeline.results.base import Missing
from pipeline.stages.report import blocks
from pipeline.stages.report.blocks import Block, Cell, CellRow, CellTable, Heading, Section, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import number, signed
from pipeline.stages.report.sections.result_cells import ResultColumn, divergence_cell, divergence_scale, task_cell

TITLE = "Effect of the calibration"
BELOW = "Below a figure is its difference from BF16 in points, with the 95 % interval."
DIGITS = 2


def section(report: Report) -> Section | None:
    """Return a table for each variant with several calibrations."""
    if not report.sweeps:
        return None
    shown: list[Block] = [
        lead(
            "The same variant with several calibrations, scored on the same items under the same conditions. "
            "With many rows some are better or worse by chance."
        )
    ]
    for sweep in report.sweeps:
        shown += [Heading(sweep.label), sweep_table(sweep)]
    return Section("sweep", TITLE, "Calibration sweep", shown, is_expert=True)


def sweep_table(sweep: Sweep) -> CellTable:
    """Return every task, the mean over the tasks, and the divergence if it was measured."""
    tasks = [ResultColumn(task, "%", task, "task", 1) for task in sweep.tasks]
    columns = [
        blocks.Column("Samples", ""),
        *tasks,
        blocks.Column("Mean", "%"),
    ]
    rows = [_row(row, tasks) for row in sweep.rows]
    if any(isinstance(row.divergence, DivergenceCell) for row in sweep.rows):
        unit, scale, digits = divergence_scale(sweep)
        column = ResultColumn("KL from BF16", unit, DIVERGENCE, "divergence", digits, scale, around="95 %")
        columns.append(column)
        added = (_divergence(row, column) for row in sweep.rows)
        rows = [replace(row, cells=(*row.cells, cell)) for row, cell in zip(rows, added, strict=True)]
    caption = f"Calibration choices of {sweep.label}"
    words = legend(cell.word for row in rows for cell in row.cells)
    return CellTable("Technique", columns, rows, caption, legend=[BELOW, words] if words else [BELOW])


def _divergence(row: SweepRow, column: ResultColumn) -> Cell:
    return divergence_cell(row.divergence, column)


def _row(row: SweepRow, tasks: list[ResultColumn]) -> CellRow:
    choice = row.choice
    setting = "" if choice.parameter is None else f" {choice.parameter:g}"
    scores = (task_cell(row.tasks[column.name], column, False) for column in tasks)
    cells = (Cell(f"{choice.samples:,}", order=choice.samples), *scores, _mean(row))
    return CellRow(f"{choice.technique}{setting}", cells, row.is_current, "shown above" if row.is_current else "")


def _mean(row: SweepRow) -> Cell:
    mean, change = row.mean_accuracy, row.mean_change
    if isinstance(mean, Missing):
        return Cell(missing=mean.reason)
    shown = Cell(value=number(100 * mean.value, DIGITS), evidence=f"mean of {mean.tasks} tasks")
    if mean.interval is not None:
        shown = replace(shown, interval=f"{_share(mean.interval.low)} to {_share(mean.interval.high)} %")
    if not isinstance(change, Mean):
        return replace(shown, change_missing=change.reason)
    shown = replace(shown, change=signed(100 * change.value, DIGITS))
    if change.interval is None:
        return shown
    interval_text = f"{signed(100 * change.interval.low, DIGITS)} to {signed(100 * change.interval.high, DIGITS)}"
    clear = not change.interval.contains(0.0)
    return replace(
        shown,
        change_interval=interval_text,
        word="cannot tell" if not clear else "better" if change.value > 0 else "worse",
    )


def _share(value: float) -> str:
    return number(100 * value, DIGITS)
