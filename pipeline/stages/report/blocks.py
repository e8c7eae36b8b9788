"""Blocks: what sections return and renderers write. A renderer knows these kinds, and no subject.

Every figure is already text here; what is drawn has its figures beside it as tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipeline.stages.report.vega.spec import Chart

Medium = Literal["page", "markdown", "terminal"]

PAGE: frozenset[Medium] = frozenset({"page"})
DOCUMENTS: frozenset[Medium] = frozenset({"page", "markdown"})
TERMINAL: frozenset[Medium] = frozenset({"terminal"})
TEXT: frozenset[Medium] = frozenset({"markdown", "terminal"})
EVERYWHERE: frozenset[Medium] = frozenset({"page", "markdown", "terminal"})


@dataclass(frozen=True)
class Block:
    """A part of a section; `media` says where it is shown."""

    kind: ClassVar[str]
    media: frozenset[Medium] = field(default=DOCUMENTS, kw_only=True)

    @property
    def children(self) -> Sequence[Block]:
        """The blocks inside."""
        return ()


@dataclass(frozen=True)
class Prose(Block):
    """A paragraph; a tag stands before its text."""

    kind: ClassVar[str] = "prose"
    text: str
    style: Literal["", "lead", "answer", "source", "empty"] = ""
    tag: str = ""


@dataclass(frozen=True)
class Heading(Block):
    """A heading inside a section, below the section's own."""

    kind: ClassVar[str] = "heading"
    text: str
    level: Literal[3, 4] = 3
    style: Literal["", "which"] = ""


@dataclass(frozen=True)
class Mark:
    """An entry of a key: a name beside its symbol, its dash, or a sample of how names are written."""

    name: str
    colour: str = ""
    shape: str = ""
    dash: str = ""
    is_hollow: bool = False
    sample: str = ""


@dataclass(frozen=True)
class Key(Block):
    """The meaning of the symbols in the chart below."""

    kind: ClassVar[str] = "key"
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Table(Block):
    """A table of plain text; the first column names its row.

    Attributes:
        caption: what the table shows, for where no heading says it.
        style: figures to the right, or words to the left.
        column_styles: for each column, figures or code where they are not as the style says.
        legend: lines below it.
    """

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str
    style: Literal["", "left"] = ""
    column_styles: tuple[Literal["", "figure", "code"], ...] = ()
    legend: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table of cells.

    Attributes:
        around: what the intervals in its cells belong to, where they need a word.
        better: which end of the column is better: higher or lower.
        group: columns of one group stay together where the table has to be cut.
    """

    title: str
    unit: str
    around: str = field(default="", kw_only=True)
    better: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Footnote:
    """A symbol in cells, and the words that the legend below has for it."""

    symbol: str
    words: str


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
    footnotes: tuple[Footnote, ...] = ()
    # An interval that is shown in the cell, not only to who hovers over it.
    around: str = ""
    missing: str = ""
    # The figure itself, for sorting.
    order: float | None = None

    @property
    def star(self) -> str:
        """The mark of a difference whose interval excludes zero."""
        return "*" if self.is_clear else ""

    @property
    def symbols(self) -> str:
        """The symbols of its footnotes."""
        return "".join(note.symbol for note in self.footnotes)

    @property
    def note(self) -> str:
        """Its footnotes in words."""
        return "; ".join(note.words for note in self.footnotes)

    @property
    def text(self) -> str:
        """All of it in one line."""
        if self.missing:
            return f"n/a: {self.missing}"
        inside = "; ".join(part for part in (f"{self.change}{self.star}" if self.change else "", self.around) if part)
        value = f"{self.value}{self.symbols}"
        return f"{value} ({inside})" if inside else value

    @property
    def hover(self) -> str:
        """Intervals and evidence, for whoever hovers over the cell."""
        parts = (
            f"95 %: {self.interval}" if self.interval else "",
            f"difference 95 %: {self.change_interval}" if self.change_interval else "",
            f"difference n/a: {self.change_missing}" if self.change_missing else "",
            self.evidence,
            self.note,
        )
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class CellRow:
    """A row of a table of cells; the one that others are compared with is highlighted."""

    label: str
    cells: tuple[Cell, ...]
    is_highlighted: bool = False
    remark: str = ""


@dataclass(frozen=True)
class CellTable(Block):
    """A table of figures with their differences; a dense one has a line for each row.

    Attributes:
        corner: the heading of the rows' labels.
    """

    kind: ClassVar[str] = "cells"
    corner: str
    columns: Sequence[Column]
    rows: Sequence[CellRow]
    caption: str
    is_dense: bool = False
    legend: Sequence[str] = ()


@dataclass(frozen=True)
class Legend(Block):
    """Small print, a line each."""

    kind: ClassVar[str] = "legend"
    lines: Sequence[str]


@dataclass(frozen=True)
class Picture(Block):
    """A chart, with its figures as tables for who cannot see it."""

    kind: ClassVar[str] = "picture"
    chart: Chart
    figures: Sequence[Block]

    @property
    def children(self) -> Sequence[Block]:
        """The tables of its figures."""
        return self.figures


@dataclass(frozen=True)
class Tag:
    """A word in a frame; a warning stands out."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Details(Block):
    """Blocks that are closed at first; a card has a name in code and tags beside its summary."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]
    style: Literal["", "card", "bins"] = ""
    code: str = ""
    tags: Sequence[Tag] = ()

    @property
    def children(self) -> Sequence[Block]:
        """The closed blocks."""
        return self.blocks


@dataclass(frozen=True)
class Tile:
    """One large figure and its change."""

    title: str
    value: str
    change: str
    is_clear: bool
    is_gain: bool


@dataclass(frozen=True)
class Tiles(Block):
    """A few large figures side by side."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Point:
    """A term with what is said of it; `more` is a remark below, smaller."""

    term: str
    texts: Sequence[str]
    tag: str = ""
    more: str = ""


@dataclass(frozen=True)
class Points(Block):
    """Terms and what is said of each; findings have longer terms."""

    kind: ClassVar[str] = "points"
    points: Sequence[Point]
    style: Literal["", "findings"] = ""


@dataclass(frozen=True)
class Facts(Block):
    """Names and values; those named by `code` are set as code."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]
    style: Literal["", "set"] = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns(Block):
    """Groups of blocks side by side; prose flows in columns of its own."""

    kind: ClassVar[str] = "columns"
    columns: Sequence[Sequence[Block]]
    style: Literal["", "prose"] = ""

    @property
    def children(self) -> Sequence[Block]:
        """The blocks of all columns."""
        return [block for column in self.columns for block in column]


@dataclass(frozen=True)
class Code(Block):
    """Texts of programs as they are, side by side where there are several."""

    kind: ClassVar[str] = "code"
    texts: Sequence[str]
    style: Literal["", "failure", "canary"] = ""


@dataclass(frozen=True)
class CheckOutcome:
    """A check, and whether it passed."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Outcomes(Block):
    """A list of checks."""

    kind: ClassVar[str] = "outcomes"
    outcomes: Sequence[CheckOutcome]


@dataclass(frozen=True)
class Section:
    """A part of the report: `key` is its anchor and class on the page, `short` its name among the contents."""

    key: str
    title: str
    short: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """The report as renderers get it; the first section has the answer."""

    title: str
    model: str
    machine: str
    measured: str
    variants: int
    schema_version: int
    sections: Sequence[Section]

    @property
    def charts(self) -> list[Chart]:
        """Every chart, in the order of the page."""
        found = (block for section in self.sections for block in walk(section.blocks))
        return [block.chart for block in found if isinstance(block, Picture)]


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """Each block and all that are inside it."""
    for block in blocks:
        yield block
        yield from walk(block.children)


def lead(text: str, tag: str = "") -> Prose:
    """The paragraph that explains a chart or table to who looks at the page."""
    return Prose(text, "lead", tag, media=PAGE)
