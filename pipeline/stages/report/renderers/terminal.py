"""The report on a terminal: the verdict, the table (in two parts where it is too narrow for one), the legend."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.stages.report.document import Report
from pipeline.stages.report.tables.calibration import headline
from pipeline.stages.report.tables.study import Cell, Column, Table
from pipeline.stages.report.tables.sweep import SweepTable

WIDTH_OF_COLUMN = 13


def render(report: Report, table: Table, console: Console) -> None:
    """Prints it; every text from outside goes through `Text`, which knows no markup."""
    console.print(Text(report.title, style="bold"))
    console.print(Text(f"{report.model} on {report.machine}", style="dim"))
    for columns in _parts(table, console.width):
        console.print(_table(table, columns))
    # A reason needs more room than a cell has.
    for row in table.rows:
        for reason in dict.fromkeys(cell.missing for cell in row.cells if cell.missing):
            console.print(Text(f"{row.label} n/a: {reason}", style="yellow"))
    for line in table.legend:
        console.print(Text(line, style="dim"))
    for sweep in report.sweeps:
        console.print(_sweep(SweepTable.of(sweep)))
    for calibration in report.calibrations:
        console.print(Text(headline(calibration)))
    console.print()
    console.print(Text(report.verdict.answer.text, style="bold"))
    for point in report.verdict.points:
        console.print(Padding(Text(point.text), (0, 0, 0, 2)))


def _parts(table: Table, width: int) -> list[list[int]]:
    """Indexes of the columns of each table: one table where they fit, else speed and size, then accuracy."""
    everything = list(range(len(table.columns)))
    if (len(everything) + 2) * WIDTH_OF_COLUMN <= width:
        return [everything]
    quality = [index for index in everything if table.columns[index].kind in ("task", "divergence")]
    speed = [index for index in everything if index not in quality]
    return [part for part in (speed, quality) if part]


def _table(table: Table, indexes: Sequence[int]) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False, header_style="bold")
    shown.add_column("Variant", min_width=12, overflow="fold")
    for index in indexes:
        shown.add_column(_header(table.columns[index]), justify="right", overflow="fold", max_width=WIDTH_OF_COLUMN + 2)
    for row in table.rows:
        cells = [row.cells[index] for index in indexes]
        shown.add_row(Text(row.label, style="bold" if row.is_baseline else ""), *(_cell(cell) for cell in cells))
    return shown


def _sweep(table: SweepTable) -> RichTable:
    title = Text(f"What the calibration choices changed: {table.label}", style="bold")
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title=title, title_justify="left")
    shown.add_column("Technique", no_wrap=True)
    shown.add_column("Samples", justify="right")
    for title_of_column, unit, _ in table.head:
        shown.add_column(Text(f"{title_of_column}\n{unit}"), justify="right", overflow="fold")
    for line in table.lines:
        name = Text(line.technique, style="bold" if line.is_current else "")
        shown.add_row(name, line.samples, *(_in_line(cell) for cell in line.cells))
    return shown


def _in_line(cell: Cell) -> Text:
    """A cell that takes one line."""
    if cell.missing:
        return Text("n/a", style="yellow")
    style = ("green" if cell.is_gain else "red") if cell.is_clear else "dim"
    return Text.assemble(cell.value, (f" {cell.change}{cell.star or ' '}" if cell.change else "", style))


def _header(column: Column) -> Text:
    return Text(f"{column.title}\n{column.unit}")


def _cell(cell: Cell) -> Text:
    if cell.missing:
        return Text("n/a", style="yellow")
    text = Text("best ", style="green") if cell.is_best else Text()
    # The column of the stars is kept free in every line, so that the figures stand one below the other.
    text.append(f"{cell.value} ", style="bold green" if cell.is_best else "")
    if cell.change:
        style = ("green" if cell.is_gain else "red") if cell.is_clear else "dim"
        text.append(f"\n{cell.change}{cell.star or ' '}", style=style)
    if cell.note:
        text.append(f"\n{cell.note}", style="yellow")
    return text
