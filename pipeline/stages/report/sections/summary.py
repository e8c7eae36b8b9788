"""The table of the first screen: a row for each format, with five figures, their intervals and their words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.compare.comparison import Comparison, Row, SizeCell, SpeedCell
from pipeline.compare.decide.decision import worst_task
from pipeline.compare.decide.losses import scored
from pipeline.compare.decide.objective import ALONE, cell_at
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.repeats import Change
from pipeline.compare.words import is_reliable, legend, speed_word, task_word
from pipeline.results.base import Missing
from pipeline.results.metrics import TPOT, MetricDefinition
from pipeline.stages.report.blocks import EVERYWHERE, Cell, CellRow, CellTable, Column
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import decimals, number, signed, size_unit
from pipeline.stages.report.sections.result_cells import ResultColumn, divergence_of, divergence_scale

CUT = " cut"
REMARKS = {"excluded": "excluded", "open": "open", "admissible": ""}


def summary_table(report: Report) -> CellTable:
    """Return a row for each variant: throughput, time per token of one user, size, worst task, and KL divergence.

    What is to be deployed follows BF16, so that both are on the first screen however many variants there are.
    """
    comparison = report.comparison
    table = _Summary.of(comparison)
    ordered = sorted(comparison.rows, key=lambda row: (not row.is_baseline, row.name != report.decision.variant))
    rows = [CellRow(row.label, tuple(table.cells(row)), row.is_baseline, remark(report, row)) for row in ordered]
    words = legend(cell.word for row in rows for cell in row.cells)
    lines = [f"{words}."] if words else []
    if comparison.is_measured:
        ends = "Below each figure is its 95 % interval. Worst task: the one with the worst word, against BF16."
        is_cut = any(cell.value.endswith(CUT) for row in rows for cell in row.cells)
        lines.append(
            f"{ends} Cut: points more of the answers reach the token limit than of BF16's." if is_cut else ends
        )
    return CellTable("Format", table.columns, rows, "Summary", is_summary=True, legend=lines, media=EVERYWHERE)


def remark(report: Report, row: Row) -> str:
    """Return what is to be done with a variant, in a word."""
    if row.name == report.decision.variant:
        return report.decision.kind
    if row.is_baseline:
        return "baseline"
    if all(isinstance(cell, Missing) for cell in (*row.speed.values(), *row.tasks.values())):
        return "not measured"
    chosen = report.recommendation
    if chosen is None:
        return ""
    if row.name == chosen.runner_up:
        return "runner-up"
    return next((REMARKS[each.standing] for each in chosen.candidates if each.name == row.name), "")


@dataclass(frozen=True)
class _Summary:
    """The columns that have figures, with their units."""

    comparison: Comparison
    has_one_user: bool
    size: tuple[str, float, int]
    divergence: ResultColumn | None

    @classmethod
    def of(cls, comparison: Comparison) -> _Summary:
        unit, scale = size_unit(row.size.bytes for row in comparison.rows if isinstance(row.size, SizeCell))
        digits = decimals(row.size.bytes / scale for row in comparison.rows if isinstance(row.size, SizeCell))
        column = None
        if any(row.perplexity is not None for row in comparison.rows):
            kl_unit, kl_scale, kl_digits = divergence_scale(comparison)
            column = ResultColumn("KL from BF16", kl_unit, "kl", "divergence", min(kl_digits, 1), kl_scale)
        has_one_user = any(isinstance(cell_at(row, TPOT.name, ALONE), SpeedCell) for row in comparison.rows)
        return cls(comparison, has_one_user, (unit, scale, min(digits, 1)), column)

    @property
    def columns(self) -> list[Column]:
        """The headings."""
        found = [Column(self.comparison.throughput.title, "against BF16", group="a")]
        if self.has_one_user:
            found.append(Column("Time per token", "one user", group="a"))
        found += [Column("Checkpoint", self.size[0], group="a"), Column("Worst task", "points", group="a")]
        if self.divergence is not None:
            found.append(Column(self.divergence.title, self.divergence.unit, group="a"))
        return found

    def cells(self, row: Row) -> list[Cell]:
        """The figures of a variant."""
        found = [self._speed(row, row.speed[row.throughput], self.comparison.throughput)]
        if self.has_one_user:
            found.append(self._speed(row, cell_at(row, TPOT.name, ALONE), TPOT))
        found += [self._size(row), worst_cell(row)]
        return found if self.divergence is None else [*found, divergence_of(row, self.divergence, False)]

    def _speed(self, row: Row, cell: SpeedCell | Missing, metric: MetricDefinition) -> Cell:
        if isinstance(cell, Missing):
            return Cell(missing=cell.reason)
        mean, change = cell.measured.mean, cell.change
        figure = f"{number(mean, decimals([mean]) if mean < 100 else 0)} {metric.unit}"
        if row.is_baseline or not isinstance(change, Change):
            return Cell(value=figure, order=mean)
        # Of another load than that of the tables the guards are in the section on speed.
        reliable = is_reliable(self.comparison, row) if metric is not TPOT else self._is_reliable_alone(row)
        return Cell(
            value=f"{signed(change.percent, 1 if abs(change.percent) < 10 else 0)} %",
            around=_ends(change) if change.interval else "one repeat",
            word=speed_word(cell, metric.better, is_reliable=reliable),
            evidence=figure,
            order=mean,
        )

    def _is_reliable_alone(self, row: Row) -> bool:
        """Return True if no guard failed for a request alone, of the variant or BF16."""
        return not any(each.marks_at(ALONE) for each in self.comparison.rows if each is row or each.is_baseline)

    def _size(self, row: Row) -> Cell:
        if isinstance(row.size, Missing):
            return Cell(missing=row.size.reason)
        _, scale, digits = self.size
        ratio = "" if isinstance(row.size.ratio, Missing) or row.is_baseline else f"{row.size.ratio:.2f}×"
        return Cell(value=number(row.size.bytes / scale, digits), around=ratio, order=row.size.bytes)


def _ends(change: Change) -> str:
    assert change.interval is not None
    wide = max(abs(change.interval.low), abs(change.interval.high)) >= 10
    return f"{signed(change.interval.low, 0 if wide else 1)} to {signed(change.interval.high, 0 if wide else 1)}"


def worst_cell(row: Row) -> Cell:
    """Return the task that speaks most against a variant: by its score, or by answers that run on."""
    if row.is_baseline:
        return Cell(value="baseline" if any(not isinstance(cell, Missing) for cell in row.tasks.values()) else "–")
    if (found := worst_task(row)) is None:
        reasons = [cell.reason for cell in row.tasks.values() if isinstance(cell, Missing)]
        return Cell(missing=reasons[0] if reasons else "no task was scored")
    task, cell = found
    if task_word(cell) != "worse" and (runs_on := _runs_on(row)) is not None:
        return runs_on
    change = cell.change
    assert isinstance(change, PairedDifference)
    ends = ""
    if change.interval is not None:
        ends = f" ({signed(100 * change.interval.low)} to {signed(100 * change.interval.high)})"
    return Cell(value=signed(100 * change.difference), around=f"{task}{ends}", word=task_word(cell))


def _runs_on(row: Row) -> Cell | None:
    """Return the task of which most more answers than BF16's reach the token limit; None if there is none."""
    more = {task: cell.cut for task, cell in scored(row).items() if cell.cut is not None and cell.cut.is_more}
    if not more:
        return None
    task, cut = max(more.items(), key=lambda each: (each[1].here - each[1].baseline) / each[1].n)
    here, baseline = (100 * count / cut.n for count in (cut.here, cut.baseline))
    return Cell(value=f"{signed(here - baseline)}{CUT}", around=f"{task} ({baseline:.1f} → {here:.1f} %)", word="worse")
