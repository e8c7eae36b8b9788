"""The report on a terminal: tables (split if too wide), their legends, and the answer last."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.stages.report.blocks import Block, Cell, CellTable, Column, Heading, Page, Points, Prose

WIDTH_OF_COLUMN = 13


def render(page: Page, console: Console) -> None:
    """Print the terminal blocks of all sections; text from outside goes through `Text`, which ignores markup."""
    console.print(Text(page.title, style="bold"))
    console.print(Text(f"{page.model} on {page.machine}", style="dim"))
    answer, *others = page.sections
    for section in others:
        _print(section.blocks, console)
    # The answer is printed last, next to the prompt.
    console.print()
    _print(answer.blocks, console)


def _print(blocks: Sequence[Block], console: Console) -> None:
    for block in blocks:
        if "terminal" in block.media:
            for part in _parts(block, console.width):
                console.print(part)


def _parts(block: Block, width: int) -> list[RenderableType]:
    """Return the printed form of a block; empty for kinds that are only shown on the page."""
    match block:
        case Prose():
            return [Text(block.text, style="bold" if block.style == "answer" else "")]
        case Heading():
            return [Text(block.text, style="bold")]
        case Points():
            return [Padding(Text(text), (0, 0, 0, 2)) for point in block.points for text in point.texts]
        case CellTable():
            tables = [_dense(block)] if block.is_dense else [_sparse(block, part) for part in _groups(block, width)]
            return [*tables, *_reasons(block), *(Text(line, style="dim") for line in block.legend)]
        case _:
            return []


def _reasons(table: CellTable) -> list[Text]:
    """Return the reasons of missing figures on separate lines: cells are too narrow for them."""
    if table.is_dense:
        return []
    return [
        Text(f"{row.label} n/a: {reason}", style="yellow")
        for row in table.rows
        for reason in dict.fromkeys(cell.missing for cell in row.cells if cell.missing)
    ]


def _groups(table: CellTable, width: int) -> list[list[int]]:
    """Return the column indexes of each part: one part if all columns fit, else one per group of columns."""
    everything = list(range(len(table.columns)))
    if (len(everything) + 2) * WIDTH_OF_COLUMN <= width:
        return [everything]
    groups: dict[str, list[int]] = {}
    for index in everything:
        groups.setdefault(table.columns[index].group, []).append(index)
    return list(groups.values())


def _sparse(table: CellTable, indexes: Sequence[int]) -> RichTable:
    """Return a table with two lines per row: figures, and their differences below."""
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False, header_style="bold")
    shown.add_column(table.corner, min_width=12, overflow="fold")
    for index in indexes:
        shown.add_column(_header(table.columns[index]), justify="right", overflow="fold", max_width=WIDTH_OF_COLUMN + 2)
    # Reserve the width of symbols and stars in every line, so that the figures are aligned.
    room = {index: max([1, *(len(row.cells[index].symbols) for row in table.rows)]) for index in indexes}
    for row in table.rows:
        cells = (_two_lines(row.cells[index], room[index]) for index in indexes)
        shown.add_row(Text(row.label, style="bold" if row.is_highlighted else ""), *cells)
    return shown


def _dense(table: CellTable) -> RichTable:
    """Return a table with one line per row."""
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    shown.add_column(table.corner, no_wrap=True)
    for column in table.columns:
        shown.add_column(_header(column), justify="right", overflow="fold")
    for row in table.rows:
        name = Text(row.label, style="bold" if row.is_highlighted else "")
        shown.add_row(name, *(_one_line(cell) for cell in row.cells))
    return shown


def _header(column: Column) -> Text:
    return Text(f"{column.title}\n{column.unit}" if column.unit else column.title)


def _one_line(cell: Cell) -> Text:
    if cell.missing:
        return Text("n/a", style="yellow")
    return Text.assemble(cell.value, (f" {cell.change}{cell.star or ' '}" if cell.change else "", _style(cell)))


def _two_lines(cell: Cell, room: int) -> Text:
    if cell.missing:
        return Text("n/a", style="yellow")
    text = Text("best ", style="green") if cell.is_best else Text()
    text.append(cell.value, style="bold green" if cell.is_best else "")
    text.append(cell.symbols.ljust(room), style="yellow")
    if cell.change:
        text.append(f"\n{cell.change}{cell.star.ljust(room)}", style=_style(cell))
    return text


def _style(cell: Cell) -> str:
    return ("green" if cell.is_gain else "red") if cell.is_clear else "dim"
