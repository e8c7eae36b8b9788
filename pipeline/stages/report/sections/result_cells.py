"""Cells of results: each figure with its interval, its difference from BF16, and the symbols of its limitations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.compare.calibration_sweep import Sweep
from pipeline.compare.comparison import Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.words import speed_word, task_word
from pipeline.results.base import Missing
from pipeline.results.metrics import Direction
from pipeline.stages.report import blocks
from pipeline.stages.report.blocks import Cell, Footnote
from pipeline.stages.report.number_format import decimals, number, signed

UNRELIABLE = Footnote("§", "unreliable")
# The legend text of each symbol.
LEGEND = {UNRELIABLE: "a guard failed during the measurement and is named below."}


@dataclass(frozen=True)
class ResultColumn(blocks.Column):
    """A column of results: one metric in one unit."""

    name: str
    kind: Literal["speed", "size", "task", "divergence"]
    digits: int
    scale: float = 1.0

    @property
    def direction(self) -> Direction:
        """The better direction."""
        return "lower" if self.better == "lower" else "higher"


def footnote_lines(found: set[Footnote]) -> list[str]:
    """Return the legend of these footnotes, in the order of `LEGEND`."""
    return [f"{note.symbol} {note.words}; {text}" for note, text in LEGEND.items() if note in found]


def divergence_scale(shown: Comparison | Sweep) -> tuple[str, float, int]:
    """Return unit, scale and decimals that resolve the smallest of the divergences."""
    found = [cell.kl.value for row in shown.rows if isinstance(cell := row.divergence, DivergenceCell)]
    smallest = min((value for value in found if value > 0), default=0.0)
    unit, scale = ("nats/token", 1.0) if smallest >= 0.1 else ("10⁻³ nats/token", 1e-3)
    return unit, scale, min(decimals([smallest / scale]), 2 if scale < 1 else 3)


def _range(interval: Interval | None, show: Callable[[float], str]) -> str:
    return "" if interval is None else f"{show(interval.low)} to {show(interval.high)}"


def speed_cell(row: Row, cell: SpeedCell | Missing, column: ResultColumn, best: bool, *, is_reliable: bool) -> Cell:
    """Return a metric of the benchmark with its change in percent; unreliable if a guard failed for it or BF16."""
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
        footnotes=(UNRELIABLE,) if row.marks else (),
    )
    if isinstance(change, Missing):
        return replace(shown, change_missing=change.reason)
    word = speed_word(cell, column.direction, is_reliable=is_reliable)
    if change.qualification:
        shown = replace(shown, evidence=f"{shown.evidence}; {change.qualification}")
    return replace(
        shown,
        change=f"{signed(change.percent)} %",
        change_interval=_range(change.interval, signed),
        change_missing=change.reason or "",
        word=word,
    )


def size_cell(cell: SizeCell | Missing, column: ResultColumn, best: bool) -> Cell:
    """Return a checkpoint's size with its ratio to BF16's."""
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


def task_cell(cell: TaskCell | Missing, column: ResultColumn, best: bool) -> Cell:
    """Return a task's accuracy with its difference from BF16."""
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
        change_interval=_range(change.interval, points),
        evidence=f"{shown.evidence}, {counts}, p = {change.p_value:.2g}{_loss(cell)}",
        word="" if isinstance(cell.loss, Missing) else task_word(cell),
    )


def _loss(cell: TaskCell) -> str:
    """Return the verdict on the loss, with its corrected p-value."""
    loss = cell.loss
    return "" if isinstance(loss, Missing) else f" ({loss.p_holm:.2g} by Holm over the table), {loss.text}"


def divergence_of(row: Row, column: ResultColumn, best: bool) -> Cell:
    """Return a variant's divergence; for the baseline, its divergence from itself as evidence."""
    cell = row.divergence
    if row.is_baseline and row.perplexity is not None:
        again = isinstance(cell, DivergenceCell) and number(cell.kl.value / column.scale, column.digits)
        return Cell(value="baseline", order=0.0, evidence=f"from itself, repeated: {again}" if again else "")
    return replace(divergence_cell(cell, column), is_best=best)


def divergence_cell(cell: DivergenceCell | Missing, column: ResultColumn) -> Cell:
    """Return a divergence with its interval."""
    if isinstance(cell, Missing):
        return Cell(missing=cell.reason)

    def show(value: float) -> str:
        return number(value / column.scale, column.digits)

    interval_text = _range(cell.kl.interval, show)
    return Cell(
        value=show(cell.kl.value),
        order=cell.kl.value,
        interval=f"{interval_text} {column.unit}" if interval_text else "",
        around=interval_text or "no interval",
        evidence=f"{cell.tokens:,} tokens of {cell.sequences:,} sequences",
    )
