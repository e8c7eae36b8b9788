"""The table of what calibration choices changed, as text; every renderer shows these cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.compare.calibration_sweep import Sweep, SweepRow
from pipeline.compare.comparison import DIVERGENCE
from pipeline.compare.stats.accuracy import Mean
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Missing
from pipeline.stages.report.number_format import number, signed
from pipeline.stages.report.tables.study import Cell, Column, divergence_cell, divergence_scale, task_cell

DIGITS = 2


@dataclass(frozen=True)
class SweepLine:
    """One choice: its name, then a cell for each column."""

    technique: str
    samples: str
    is_current: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SweepTable:
    """One variant's choices; a column is its title, its unit and what its interval belongs to."""

    label: str
    head: tuple[tuple[str, str, str], ...]
    lines: tuple[SweepLine, ...]

    @classmethod
    def of(cls, sweep: Sweep) -> SweepTable:
        """The cells of a sweep: every task, the mean over the tasks, the divergence where it was measured."""
        head = [*((task, "%", "") for task in sweep.tasks), ("Mean", "%", "95 % of the difference")]
        lines = [_line(row, sweep) for row in sweep.rows]
        if any(isinstance(row.divergence, DivergenceCell) for row in sweep.rows):
            unit, scale, digits = divergence_scale(sweep)
            column = Column(DIVERGENCE, "KL from BF16", unit, "divergence", "lower", digits, scale)
            head.append((column.title, unit, "95 %"))
            added = (_divergence(row, column) for row in sweep.rows)
            lines = [replace(line, cells=(*line.cells, cell)) for line, cell in zip(lines, added, strict=True)]
        return cls(sweep.label, tuple(head), tuple(lines))


def _divergence(row: SweepRow, column: Column) -> Cell:
    cell = divergence_cell(row.divergence, column)
    # Here the interval stands where it stands for the mean.
    return replace(cell, change="", note=cell.change)


def _line(row: SweepRow, sweep: Sweep) -> SweepLine:
    choice = row.choice
    setting = "" if choice.parameter is None else f" {choice.parameter:g}"
    tasks = (task_cell(row.tasks[task], Column(task, task, "%", "task", "higher", 1), False) for task in sweep.tasks)
    return SweepLine(f"{choice.technique}{setting}", f"{choice.samples:,}", row.is_current, (*tasks, _mean(row)))


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
    ends = f"{signed(100 * change.interval.low, DIGITS)} to {signed(100 * change.interval.high, DIGITS)}"
    clear = not change.interval.contains(0.0)
    return replace(shown, change_interval=ends, note=ends, is_clear=clear, is_gain=clear and change.value > 0)


def _share(value: float) -> str:
    return number(100 * value, DIGITS)
