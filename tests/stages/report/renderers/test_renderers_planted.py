"""Texts planted by whoever wrote a model, a data set, an answer or a card are inert, whichever renderer shows them."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from support.report_page import PAYLOADS, obeyed
from support.report_page import Page as Parsed

from pipeline.progress import Progress
from pipeline.results.text import clean, json_line
from pipeline.stages.report import blocks
from pipeline.stages.report.blocks import EVERYWHERE, Block, Cell, CellRow, CellTable, Column, Page, Prose, Section
from pipeline.stages.report.ci_files import Case, junit
from pipeline.stages.report.ci_files import markdown as summary
from pipeline.stages.report.renderers import csv_json, html, markdown, terminal

TEXTS = st.lists(
    st.one_of(st.sampled_from(PAYLOADS), st.text(max_size=20), st.text("\x1b[]();m\x07\x9b<>&`*_|#\\\n-", max_size=20)),
    min_size=1,
    max_size=3,
).map(lambda parts: f"x{''.join(parts)}x")
# What comes from the project's own code, never from outside.
KEPT = {"style", "word", "column_styles", "media", "level", "symbol", "better", "group"}
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


def spoiled(value: Any, text: str) -> Any:
    """The value with a text in place of each of its texts."""
    if isinstance(value, str):
        return text
    if isinstance(value, list | tuple):
        return type(value)(spoiled(each, text) for each in value)
    if isinstance(value, dict):
        return {text: text}
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in KEPT}
        return replace(value, **{name: spoiled(part, text) for name, part in own.items()})
    return value


def page_of(text: str) -> Page:
    """A page with every kind of block, full of a text."""
    cells = CellTable(
        "x",
        [Column("x", "x"), Column("x", "x", around="x")],
        [CellRow("x", (Cell("x", change="x"), Cell(missing="x")), remark="x")],
        "x",
        legend=["x"],
        media=EVERYWHERE,
    )
    each: list[Block] = [
        Prose("x", "lead", "x"),
        Prose("x", "answer", media=EVERYWHERE),
        blocks.Heading("x", media=EVERYWHERE),
        blocks.Table(("x", "x"), [("x", "x")], "x", legend=["x"]),
        cells,
        blocks.Legend(["x"]),
        blocks.Details("x", [Prose("x")]),
        blocks.Copy("x", "x", media=EVERYWHERE),
        blocks.Points([blocks.Point("x", ["x"], "x", "x")]),
        blocks.Facts({"x": "x"}, code=("x",)),
        blocks.Code(["x"]),
        blocks.Outcomes([blocks.CheckOutcome("x", False, "x")]),
    ]
    shown = [spoiled(block, text) for block in each]
    return Page(
        text, text, text, text, 2, 1, [Section("verdict", "V", "V", shown), Section("results", "R", text, shown)]
    )


def elements(text: str) -> list[str]:
    """What Markdown makes of a document: its elements, and where links lead."""
    found = Parsed(PARSER.render(text))
    return [*found.tags, *(value for _, name, value in found.attributes if name in ("href", "src"))]


PLAIN_PAGE = Parsed(html.render(page_of("x")))
PLAIN_MARKDOWN = elements(markdown.render(page_of("x")))


@settings(max_examples=30)
@given(TEXTS)
@example(f"x{''.join(PAYLOADS)}x")
def test_html_has_the_elements_of_the_templates_alone(text: str) -> None:
    page = html.render(page_of(text))
    found = Parsed(page)
    assert not found.open
    # `wbr` marks where names may be broken.
    assert [tag for tag in found.tags if tag != "wbr"] == [tag for tag in PLAIN_PAGE.tags if tag != "wbr"]
    assert {(tag, name) for tag, name, _ in found.attributes} == {(tag, name) for tag, name, _ in PLAIN_PAGE.attributes}
    links = [value for _, name, value in found.attributes if name in ("href", "src")]
    assert links == [value for _, name, value in PLAIN_PAGE.attributes if name in ("href", "src")]
    assert not obeyed(page)


@settings(max_examples=30)
@given(TEXTS)
@example(f"x{''.join(PAYLOADS)}x")
def test_markdown_has_the_elements_of_the_report_alone(text: str) -> None:
    document = markdown.render(page_of(text))
    assert not obeyed(document)
    assert elements(document) == PLAIN_MARKDOWN


@settings(max_examples=30)
@given(TEXTS)
@example(f"x{''.join(PAYLOADS)}x")
def test_a_summary_and_junit_of_a_ci_hold_it_as_text(text: str) -> None:
    case = Case(text, text, text, text, text, "worse", "failed")
    shown = summary([case], text)
    assert not obeyed(shown)
    plain = summary([Case("x", "x", "x", "x", "x", "worse", "failed")], "x")
    assert elements(shown) == elements(plain)
    assert not obeyed(junit([case]).decode())


@settings(max_examples=30)
@given(TEXTS)
@example(f"x{''.join(PAYLOADS)}x")
def test_tables_and_lines_of_data_hold_it_as_text(text: str) -> None:
    table = csv_json._csv([text], [{text: text}])
    assert not obeyed(table)
    assert list(csv.reader(io.StringIO(table, newline=""))) == [[clean(text)], [clean(text)]]
    line = json_line({text: text})
    assert not obeyed(line) and "\n" not in line
    assert json.loads(line) == {text: text}


@settings(max_examples=30)
@given(TEXTS)
@example(f"x{''.join(PAYLOADS)}x")
def test_a_terminal_obeys_nothing_of_it(text: str) -> None:
    for colours in (None, "truecolor"):
        shown = io.StringIO()
        console = Console(file=shown, width=100, highlight=False, force_terminal=bool(colours), color_system=colours)
        terminal.render(page_of(text), console)
        # Rich's own styles are of this form.
        assert not obeyed(re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue()) if colours else shown.getvalue())
        assert "evil.example\x07" not in shown.getvalue()


@pytest.mark.parametrize("text", PAYLOADS)
def test_progress_shows_it_and_obeys_nothing_of_it(text: str) -> None:
    shown = io.StringIO()
    progress = Progress(Console(file=shown, width=100, highlight=False, force_terminal=False))
    progress.say(text)
    with progress.step(text):
        progress.detail(text)
    assert not obeyed(shown.getvalue())
    assert shown.getvalue().count("done") == 1
