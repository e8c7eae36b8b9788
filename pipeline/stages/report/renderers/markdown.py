"""The report as Markdown, for a pull request or a wiki; charts become tables of their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.results.text import clean, in_markdown
from pipeline.stages.report.blocks import (
    Block,
    Cell,
    CellTable,
    Code,
    Copy,
    Facts,
    Heading,
    Legend,
    Outcomes,
    Page,
    Points,
    Prose,
    Section,
    Table,
)


def render(page: Page) -> str:
    """Return the sections in the order of the page; the answer is below the title, without a heading."""
    first, *others = page.sections
    parts = [f"# {in_markdown(page.title)}", *_blocks(first.blocks)]
    for section in others:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = _blocks(section.blocks)
    return [f"## {in_markdown(section.title)}", *parts] if parts else []


def _blocks(blocks: Iterable[Block]) -> list[str]:
    return [part for block in blocks if "markdown" in block.media for part in _block(block)]


def _block(block: Block) -> list[str]:
    """Return a block as paragraphs, lists and tables; a container as its nested blocks."""
    match block:
        case Prose():
            return [f"**{in_markdown(block.text)}**" if block.style == "answer" else in_markdown(block.text)]
        case Heading():
            return [f"{'#' * block.level} {in_markdown(block.text)}"]
        case Points():
            return _bullets(f"{point.term}: {text}" for point in block.points for text in point.texts)
        case Facts():
            return _bullets(f"{name}: {value}" for name, value in block.facts.items())
        case Legend():
            return _bullets(block.lines)
        case Outcomes():
            return _bullets(f"{each.word}: {each.name} {each.detail}" for each in block.outcomes)
        case Copy():
            command = " ".join(clean(block.text).replace("`", "").replace("<", "&lt;").split())
            return [f"{in_markdown(block.label)}:", f"```\n{command}\n```"]
        case Code():
            return [in_markdown(text) for text in block.texts]
        case Table():
            return _table(block)
        case CellTable():
            return _cells(block)
        case _:
            return _blocks(block.children)


def _table(table: Table) -> list[str]:
    rows = [[in_markdown(cell) for cell in row] for row in table.rows]
    return [
        f"**{in_markdown(table.caption)}**",
        _grid([in_markdown(name) for name in table.head], "---", rows),
        *_bullets(table.legend),
    ]


def _cells(table: CellTable) -> list[str]:
    head = [in_markdown(table.corner)]
    for column in table.columns:
        inside = "; ".join(part for part in (column.unit, column.around) if part)
        head.append(in_markdown(f"{column.title} ({inside})" if inside else column.title))
    rows = [
        [in_markdown(f"{row.label} ({row.remark})" if row.remark else row.label), *(_cell(cell) for cell in row.cells)]
        for row in table.rows
    ]
    return [_grid(head, "---:", rows), *_bullets((*table.missing, *table.legend))]


def _cell(cell: Cell) -> str:
    text = in_markdown(cell.text)
    return f"**{text}** (best)" if cell.is_best else text


def _grid(head: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a table with the columns after the first aligned by `rule`."""
    lines = [head, ["---", *([rule] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(texts: Iterable[str]) -> list[str]:
    """Return a list as one part; nothing if it is empty."""
    items = "\n".join(f"- {in_markdown(text)}" for text in texts)
    return [items] if items else []
