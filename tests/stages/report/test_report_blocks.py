"""Blocks in every renderer: each kind has its form, and what is for one medium stays there."""

import io
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace

import pytest
from rich.console import Console
from support.report_page import ATTACK
from support.report_page import Page as Parsed

from pipeline.stages.report import blocks, sections
from pipeline.stages.report.blocks import (
    EVERYWHERE,
    PAGE,
    TERMINAL,
    Block,
    Cell,
    CellRow,
    CellTable,
    Column,
    Details,
    Footnote,
    Page,
    Picture,
    Prose,
    Section,
    Table,
)
from pipeline.stages.report.renderers import html, markdown, terminal
from pipeline.stages.report.vega.spec import Chart

BAR = {"mark": "bar", "data": {"values": [{"n": 1}]}, "encoding": {"x": {"field": "n", "type": "quantitative"}}}
TABLE = Table(("Variant", "Bytes"), [("BF16", "12")], "Sizes", column_styles=("", "figure"), legend=["n/a: nothing"])
DAGGER = Footnote("†", "while others ran")
CELLS = CellTable(
    "Variant",
    [Column("Throughput", "tok/s", better="higher", group="a"), Column("MMLU", "%", group="b")],
    [
        CellRow("BF16", (Cell("100"), Cell("70")), is_highlighted=True, remark="baseline"),
        CellRow(
            "FP8", (Cell("90", change="−10 %", word="worse", footnotes=(DAGGER,)), Cell(missing="eval has not run"))
        ),
    ],
    "Results",
    legend=["† while others ran"],
    media=EVERYWHERE,
)
EACH: list[Block] = [
    Prose("A paragraph", "lead", "predicted"),
    blocks.Heading("A heading"),
    blocks.Key([blocks.Mark("a", "var(--s-1)", "ring"), blocks.Mark("off", sample="grey name")]),
    TABLE,
    CELLS,
    blocks.Legend(["small print"]),
    Picture(Chart("bar", "A bar", "One bar.", lambda layout: dict(BAR)), [TABLE]),
    Details("More", [Prose("inside")]),
    blocks.Copy("Serve", "vllm serve a/b"),
    blocks.Points([blocks.Point("Why", ["because"], "in use", "and more")]),
    blocks.Facts({"log_file": "a/b"}, code=("log_file",)),
    blocks.Columns([[Prose("left")], [Prose("right")]]),
    blocks.Code(["vllm serve"]),
    blocks.Outcomes([blocks.CheckOutcome("files", False, "one is gone")]),
]


def page_of(shown: Sequence[Block], answer: Sequence[Block] = ()) -> Page:
    parts = [Section("verdict", "Verdict", "Verdict", answer), Section("results", "Results", "Results", shown)]
    return Page("Title", "model", "machine", "", 2, 1, parts)


def printed(page: Page, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    terminal.render(page, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_kind_of_block_is_in_the_list() -> None:
    kinds = {kind for kind in vars(blocks).values() if isinstance(kind, type) and issubclass(kind, Block)}
    assert {type(block) for block in EACH} == kinds - {Block}


@pytest.mark.parametrize("block", EACH, ids=lambda block: block.kind)
def test_every_kind_has_its_form_in_every_renderer(block: Block) -> None:
    page = page_of([block])
    found = Parsed(html.render(page))
    assert not found.open and len(found.text) > 5
    markdown.render(page)
    printed(page)


def test_a_block_is_shown_where_it_is_for() -> None:
    page = page_of([Prose("on the page", media=PAGE), Prose("on a terminal", media=TERMINAL), Prose("in documents")])
    assert "on the page" in html.render(page) and "on a terminal" not in html.render(page)
    text = markdown.render(page)
    assert "in documents" in text and "on the page" not in text and "on a terminal" not in text
    assert "on a terminal" in printed(page) and "in documents" not in printed(page)


def test_a_section_without_blocks_for_markdown_has_no_heading_there() -> None:
    assert "Results" not in markdown.render(page_of([Prose("on the page", media=PAGE)]))


def test_a_footnote_is_a_symbol_in_cells_and_words_below() -> None:
    page = page_of([CELLS])
    for text in (html.render(page), markdown.render(page), printed(page)):
        assert "90†" in re.sub(r"<[^>]+>", "", text)
        assert re.sub(r' title="[^"]*"', "", text).count("while others ran") == 1


def test_a_terminal_cuts_a_wide_table_between_groups_and_begins_with_the_answer() -> None:
    page = page_of([CELLS], [Prose("Deploy FP8", "answer", media=EVERYWHERE)])
    wide, narrow = printed(page), printed(page, 40)
    assert wide.count("Variant") == 1 and narrow.count("Variant") == 2
    assert "FP8 not measured: eval has not run" in wide and wide.index("Deploy FP8") < wide.index("Variant")


def test_a_reason_why_figures_are_missing_is_below_the_table_once() -> None:
    rows = [CellRow(name, (Cell(missing="eval has not run"), Cell(missing="no server"))) for name in ("FP8", "AWQ")]
    page = page_of([CellTable("Variant", CELLS.columns, rows, "Results", media=EVERYWHERE)])
    for text in (markdown.render(page), printed(page)):
        assert "FP8, AWQ not measured: eval has not run" in text and text.count("eval has not run") == 1
        assert "FP8, AWQ not measured: no server" in text and text.count("no server") == 1


@pytest.mark.parametrize("block", [b for b in EACH if b.kind not in ("picture", "key")], ids=lambda b: b.kind)
def test_hostile_text_in_any_block_stays_text(block: Block) -> None:
    found = Parsed(html.render(page_of([hostile(block)])))
    assert not found.open and found.tags.count("script") == 1 and "img" not in found.tags
    assert "<script" not in markdown.render(page_of([hostile(block)]))


def hostile(block: Block) -> Block:
    """The block with the attack in place of its texts."""

    def spoil(value: object) -> object:
        if isinstance(value, str):
            return ATTACK
        if isinstance(value, list | tuple):
            return type(value)(spoil(each) for each in value)
        if isinstance(value, dict):
            return {ATTACK: ATTACK}
        if is_dataclass(value) and not isinstance(value, type):
            texts = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in KEPT}
            return replace(value, **{name: spoil(text) for name, text in texts.items()})
        return value

    return spoil(block)  # type: ignore[return-value]


# What comes from the project's own code, never from outside.
KEPT = {"style", "word", "column_styles", "media", "level", "symbol", "better", "group"}


def test_sections_are_in_the_order_of_the_page() -> None:
    names = [make.__module__.rpartition(".")[2] for make in sections.SECTIONS]
    assert names[0] == "verdict" and names[-1] == "reading" and len(set(names)) == len(names)
