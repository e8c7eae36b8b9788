"""Blocks: the output of sections and the input of renderers. Renderers know these kinds, and no subject.

Every figure is already formatted as text; a chart comes with its figures as tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipeline.results.text import by_reason
from pipeline.stages.report.vega.spec import Chart

Medium = Literal["page", "markdown", "terminal"]

PAGE: frozenset[Medium] = frozenset({"page"})
DOCUMENTS: frozenset[Medium] = frozenset({"page", "markdown"})
TERMINAL: frozenset[Medium] = frozenset({"terminal"})
MARKDOWN: frozenset[Medium] = frozenset({"markdown"})
HERE: frozenset[Medium] = frozenset({"page", "terminal"})
EVERYWHERE: frozenset[Medium] = frozenset({"page", "markdown", "terminal"})


@dataclass(frozen=True)
class Block:
    """A part of a section, shown in `media`."""

    kind: ClassVar[str]
    media: frozenset[Medium] = field(default=DOCUMENTS, kw_only=True)

    @property
    def children(self) -> Sequence[Block]:
        """The nested blocks."""
        return ()


@dataclass(frozen=True)
class Prose(Block):
    """A paragraph, with an optional tag before its text."""

    kind: ClassVar[str] = "prose"
    text: str
    style: Literal["", "lead", "answer", "reason", "source", "empty"] = ""
    tag: str = ""


@dataclass(frozen=True)
class Heading(Block):
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str
    level: Literal[3, 4] = 3
    style: Literal["", "which"] = ""


@dataclass(frozen=True)
class Mark:
    """An entry of a key: a name with its symbol, its dash, or a sample of text."""

    name: str
    colour: str = ""
    shape: str = ""
    dash: str = ""
    is_hollow: bool = False
    sample: str = ""


@dataclass(frozen=True)
class Key(Block):
    """The key of the symbols in the chart below."""

    kind: ClassVar[str] = "key"
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Table(Block):
    """A table of plain text; the first column names its row.

    Attributes:
        caption: title of the table, for media without a heading.
        style: figures aligned to the right, or words to the left.
        column_styles: overrides of the style by column: figures or code.
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
        around: description of the intervals in its cells, if needed.
        better: the better direction: higher or lower.
        group: columns of one group stay together if the table is split.
    """

    title: str
    unit: str
    around: str = field(default="", kw_only=True)
    better: str = field(default="", kw_only=True)
    group: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Footnote:
    """A symbol in cells, and its meaning in the legend below."""

    symbol: str
    words: str


@dataclass(frozen=True)
class Cell:
    """A figure with its difference from BF16 and the word for it, or the reason why it was not measured.

    Attributes:
        value: the figure.
        interval: of the figure, shown on hover.
        change: its difference from BF16.
        change_interval: of the difference, shown below it.
        change_missing: why there is no difference.
        evidence: further figures, shown on hover.
        word: what is known of the difference, of `compare.words`.
        around: an interval shown in the cell in place of that of the difference.
        missing: why there is no figure.
        order: the unformatted figure, for sorting.
    """

    value: str = ""
    interval: str = ""
    change: str = ""
    change_interval: str = ""
    change_missing: str = ""
    evidence: str = ""
    word: str = ""
    is_best: bool = False
    footnotes: tuple[Footnote, ...] = ()
    around: str = ""
    missing: str = ""
    order: float | None = None

    @property
    def symbols(self) -> str:
        """The symbols of its footnotes."""
        return "".join(note.symbol for note in self.footnotes)

    @property
    def note(self) -> str:
        """The texts of its footnotes."""
        return "; ".join(note.words for note in self.footnotes)

    @property
    def ends(self) -> str:
        """The interval that is shown in the cell."""
        return self.around or self.change_interval

    @property
    def text(self) -> str:
        """The whole cell in one line."""
        if self.missing:
            return "not measured"
        inside = "; ".join(part for part in (self.change, self.ends, self.word) if part)
        value = f"{self.value}{self.symbols}"
        return f"{value} ({inside})" if inside else value

    @property
    def hover(self) -> str:
        """The figure's own interval and the evidence, shown on hover."""
        parts = (
            f"95 %: {self.interval}" if self.interval else "",
            f"difference not measured: {self.change_missing}" if self.change_missing else "",
            self.evidence,
            self.note,
        )
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class CellRow:
    """A row of a table of cells; the baseline is highlighted."""

    label: str
    cells: tuple[Cell, ...]
    is_highlighted: bool = False
    remark: str = ""


@dataclass(frozen=True)
class CellTable(Block):
    """A table of figures with their differences.

    Attributes:
        corner: the heading of the rows' labels.
        is_summary: True for the table of the first screen, whose rows are cards on a phone.
    """

    kind: ClassVar[str] = "cells"
    corner: str
    columns: Sequence[Column]
    rows: Sequence[CellRow]
    caption: str
    is_summary: bool = False
    legend: Sequence[str] = ()

    @property
    def missing(self) -> list[str]:
        """Lines on the figures that are not measured, with the rows of each reason: cells are too narrow for it."""
        reasons = ((row.label, cell.missing.rstrip(".")) for row in self.rows for cell in row.cells if cell.missing)
        found = by_reason(dict.fromkeys(reasons)).items()
        return [f"{', '.join(rows)} not measured: {why}{'' if why.endswith('…') else '.'}" for why, rows in found]


@dataclass(frozen=True)
class Legend(Block):
    """Notes in small print, one per line."""

    kind: ClassVar[str] = "legend"
    lines: Sequence[str]


@dataclass(frozen=True)
class Picture(Block):
    """A chart, with its figures as tables for accessibility."""

    kind: ClassVar[str] = "picture"
    chart: Chart
    figures: Sequence[Block]

    @property
    def children(self) -> Sequence[Block]:
        """The tables of its figures."""
        return self.figures


@dataclass(frozen=True)
class Tag:
    """A word in a frame; a warning is highlighted."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Details(Block):
    """Collapsed blocks; a card has a name in code and tags beside its summary."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]
    style: Literal["", "card", "bins"] = ""
    code: str = ""
    tags: Sequence[Tag] = ()

    @property
    def children(self) -> Sequence[Block]:
        """The collapsed blocks."""
        return self.blocks


@dataclass(frozen=True)
class Copy(Block):
    """A command to copy, with what it does."""

    kind: ClassVar[str] = "copy"
    label: str
    text: str


@dataclass(frozen=True)
class Point:
    """A term with its texts; `more` is a remark in small print below."""

    term: str
    texts: Sequence[str]
    tag: str = ""
    more: str = ""


@dataclass(frozen=True)
class Points(Block):
    """A list of terms with their texts; findings have longer terms."""

    kind: ClassVar[str] = "points"
    points: Sequence[Point]
    style: Literal["", "findings"] = ""


@dataclass(frozen=True)
class Facts(Block):
    """Names and values; the names in `code` have values set as code."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]
    style: Literal["", "set", "words"] = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns(Block):
    """Groups of blocks side by side; prose flows in text columns."""

    kind: ClassVar[str] = "columns"
    columns: Sequence[Sequence[Block]]
    style: Literal["", "prose"] = ""

    @property
    def children(self) -> Sequence[Block]:
        """The blocks of all columns."""
        return [block for column in self.columns for block in column]


@dataclass(frozen=True)
class Code(Block):
    """Verbatim texts, side by side if there are several."""

    kind: ClassVar[str] = "code"
    texts: Sequence[str]
    style: Literal["", "failure", "canary"] = ""


@dataclass(frozen=True)
class CheckOutcome:
    """A check, and whether it passed; None where it could not be made."""

    name: str
    ok: bool | None
    detail: str

    @property
    def word(self) -> str:
        """The outcome as people read it."""
        return "not compared" if self.ok is None else "passed" if self.ok else "failed"


@dataclass(frozen=True)
class Outcomes(Block):
    """A list of checks with their results."""

    kind: ClassVar[str] = "outcomes"
    outcomes: Sequence[CheckOutcome]


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its anchor and class on the page.
        title: its heading.
        short: its name in the contents.
        blocks: its content.
        is_expert: True for a method or its check, which comes after the results and is not printed.
    """

    key: str
    title: str
    short: str
    blocks: Sequence[Block]
    is_expert: bool = False


@dataclass(frozen=True)
class Page:
    """The report as input of the renderers; the first section has the answer."""

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
        blocks = (block for section in self.sections for block in walk(section.blocks))
        return [block.chart for block in blocks if isinstance(block, Picture)]


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield each block and all blocks nested in it."""
    for block in blocks:
        yield block
        yield from walk(block.children)


def lead(text: str, tag: str = "") -> Prose:
    """Return the paragraph that explains a chart or table on the page."""
    return Prose(text, "lead", tag, media=PAGE)
