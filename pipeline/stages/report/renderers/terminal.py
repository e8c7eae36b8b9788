"""The report on a terminal: the answer and its table; everything else is in the files."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.compare.words import SYMBOLS
from pipeline.progress import Inert
from pipeline.stages.report.blocks import Block, Cell, CellTable, Column, Copy, Heading, Page, Prose

WIDTH_OF_COLUMN = 13


def render(page: Page, console: Console) -> None:
    """Print the terminal blocks of all sections.

    Text from outside goes through `Text`, which ignores markup, and `Inert`, which leaves out what terminals obey.
    """
    console.print()
    console.print(Inert(Text(f"{page.model} on {page.machine}", style="dim")))
    for section in page.sections:
        _print(section.blocks, console)


def _print(blocks: Sequence[Block], console: Console) -> None:
    for block in blocks:
        if "terminal" in block.media:
            for part in _parts(block, console.width):
                # A command that is broken into lines cannot be copied.
                console.print(Inert(part), soft_wrap=isinstance(block, Copy))


def _parts(block: Block, width: int) -> list[RenderableType]:
    """Return the printed form of a block; empty for kinds that are only shown on the page."""
    match block:
        case Prose():
            return [Text(block.text, style="bold" if block.style == "answer" else "")]
        case Heading():
            return [Text(block.text, style="bold")]
        case Copy():
            return [Text.assemble((f"{block.label}: ", "dim"), block.text)]
        case CellTable():
            tables = [_table(block, part) for part in _groups(block, width)]
            reasons = (Text(line, style="yellow") for line in block.missing)
            return [*tables, *reasons, *(Text(line, style="dim") for line in block.legend)]
        case _:
            return []


def _groups(table: CellTable, width: int) -> list[list[int]]:
    """Return the column indexes of each part: one part if all columns fit, else one per group of columns."""
    everything = list(range(len(table.columns)))
    if (len(everything) + 2) * WIDTH_OF_COLUMN <= width:
        return [everything]
    groups: dict[str, list[int]] = {}
    for index in everything:
        groups.setdefault(table.columns[index].group, []).append(index)
    return list(groups.values())


def _table(table: CellTable, indexes: Sequence[int]) -> RichTable:
    """Return a table with a figure, its difference, interval and word in each cell."""
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False, header_style="bold")
    shown.add_column(Text(table.corner), min_width=12, overflow="fold")
    for index in indexes:
        shown.add_column(_header(table.columns[index]), justify="right", overflow="fold", max_width=WIDTH_OF_COLUMN + 2)
    # Reserve the width of symbols in every line, so that the figures are aligned.
    room = {index: max(len(row.cells[index].symbols) for row in table.rows) for index in indexes}
    for row in table.rows:
        cells = (_lines(row.cells[index], room[index]) for index in indexes)
        name = Text(row.label, style="bold" if row.is_highlighted else "")
        shown.add_row(name.append(f"\n{row.remark}", style="dim") if row.remark else name, *cells)
    return shown


def _header(column: Column) -> Text:
    return Text(f"{column.title}\n{column.unit}" if column.unit else column.title)


def _lines(cell: Cell, room: int) -> Text:
    """Return a figure, its difference, interval and word, each in a line."""
    if cell.missing:
        return Text("not measured", style="yellow")
    text = Text("best " if cell.is_best else "", style="green")
    text.append(cell.value, style="bold")
    text.append(cell.symbols.ljust(room), style="yellow")
    for part in (cell.change, cell.ends):
        if part:
            text.append(f"\n{part}", style="dim")
    if cell.word:
        text.append(f"\n{_symbol(cell)} {cell.word}", style=_style(cell))
    return text


def _symbol(cell: Cell) -> str:
    return next((symbol for word, symbol in SYMBOLS.items() if word == cell.word), "")


def _style(cell: Cell) -> str:
    return {"better": "green", "worse": "red", "unreliable": "yellow"}.get(cell.word, "dim")
