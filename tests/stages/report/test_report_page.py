"""The page as a browser and a reader meet it: safe, self-contained, legible."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline.stages.report.charts import every_chart
from support.synthetic_results import STUDY, TITLES, Run

from pipeline.stages import report
from pipeline.stages.report import number_format
from pipeline.stages.report.build import build
from pipeline.stages.report.renderers.markdown import escape
from pipeline.stages.report.vega.label_placement import Box, place

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}{% x %}|`*_[a](b)[red]x[/] \x1b[31m‮"
FORMULA = "=cmd|'/C calc'!A0"
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr", "col", "base", "embed", "source"}


class Page(HTMLParser):
    """What elements, attributes and texts a page has, and whether its elements are closed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("page"))
    report.make(run.jobs, {})
    return run


@pytest.fixture(scope="module")
def page(study):
    return (study.outputs / "tiny" / "report" / "index.html").read_text()


def test_page_is_self_contained(page):
    assert len(page.encode()) < 2_000_000
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", page)
    found = Page(page)
    assert not found.open
    assert not {"link", "iframe", "object", "embed", "base", "form", "img"} & set(found.tags)
    links = [item for item in found.attributes if item[1] in ("src", "href", "xlink:href", "srcset", "action")]
    ids = {value for _, name, value in found.attributes if name == "id"}
    # Nothing but the contents, which lead to sections of the page.
    assert links and all(tag == "a" and value[0] == "#" and value[1:] in ids for tag, _, value in links)


def test_every_chart_has_a_table_twin_and_a_description(study, page):
    found = Page(page)
    charts = every_chart(build(study.jobs, {}))
    assert {"quality", "latency", "ladder", "forest", "memory", "size", "roofline", "what-if"} <= set(charts)
    assert found.tags.count("figure") == len(charts)
    assert page.count("The figures of this chart") == len(charts)
    described = [v for tag, name, v in found.attributes if tag == "svg" and name == "aria-label"]
    assert len(described) == 2 * len(charts) and all(len(number_format) > 30 for number_format in described)
    assert page.count("<title>") > 30


def test_ids_are_unique_and_references_are_met(page):
    found = Page(page)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert {v for _, name, v in found.attributes if name == "aria-labelledby"} <= set(ids)


def test_hostile_text_stays_text(tmp_path, capsys):
    titles = {**TITLES, "gptq": ATTACK, "w4a16": FORMULA, "int8_dynamic": "[/red] [bold]"}
    variants = {
        "bf16": replace(STUDY["bf16"], text=ATTACK),
        "gptq": replace(STUDY["gptq"], text=ATTACK, emulated=(ATTACK,)),
        "w4a16": replace(STUDY["w4a16"], missing={"verify": ATTACK}),
        "int8_dynamic": replace(STUDY["int8_dynamic"], missing={"bench": f"failed {ATTACK}"}),
    }
    tasks = {label: {"task": ATTACK, "metric": ATTACK} for label in ("<b>task</b>", "../../escape", "a.b['c']", "=1+1")}
    run = Run(tmp_path, variants, title=ATTACK, titles=titles, tasks=tasks)
    report.make(run.jobs, run.failures)
    folder = run.outputs / "tiny" / "report"
    page = Page((folder / "index.html").read_text())
    assert not page.open
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "49" not in page.text and "<script>alert(1)" in "".join(page.text)
    for name in ("index.html", "report.md", "report.csv", "report.json"):
        content = (folder / name).read_text()
        assert "\x1b" not in content and "‮" not in content
    assert "<script" not in (folder / "report.md").read_text() and "<img" not in (folder / "report.md").read_text()
    cells = [cell for row in csv.reader(io.StringIO((folder / "report.csv").read_text())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    assert "\x1b" not in run.shown.getvalue() and "[/red] [bold]" in run.shown.getvalue()
    json.loads(capsys.readouterr().out.splitlines()[-1])


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def palettes():
    style = (Path(report.__file__).parent / "renderers" / "templates" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_contrast_meets_wcag_aa(palette):
    for ground in ("page", "surface", "raised"):
        for ink in ("ink", "muted", "accent", "warn", "c-gain", "c-loss"):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    assert contrast(palette["accent"], palette["accent-soft"]) >= 4.5
    assert contrast(palette["warn"], palette["warn-soft"]) >= 4.5
    for mark in ("c-baseline", "c-both", "c-weights", "c-kv", "c-other"):
        assert contrast(palette[mark], palette["surface"]) >= 3


def test_charts_are_valid_vega_lite(study):
    alt = pytest.importorskip("altair")
    charts = every_chart(build(study.jobs, {}))
    for chart in charts.values():
        assert list(chart.specs) == ["wide", "narrow"]
        # The narrow layout has the same marks in other sizes.
        alt.Chart.from_dict(shortened(chart.specs["wide"]))


def shortened(spec):
    """The spec with two rows of each of its data: the schema says little of rows and takes long over each."""
    if isinstance(spec, dict):
        return {k: v[:2] if k == "values" else shortened(v) for k, v in spec.items()}
    return [shortened(each) for each in spec] if isinstance(spec, list) else spec


def test_labels_stay_in_the_plot_and_off_each_other():
    points = [(100.0, 50.0), (104.0, 52.0), (290.0, 50.0), (0.0, 0.0), (150.0, 300.0)]
    labels = ["BF16", "BF16 + FP8 KV", "INT8 dynamic", "AWQ", "GPTQ"]
    boxes = []
    for placed, label in zip(place(points, labels, (300, 300), 11), labels, strict=True):
        wide = len(label) * 11 * 0.56 / 2
        boxes.append(Box(placed.x - wide, placed.y - 6, placed.x + wide, placed.y + 6))
    assert all(box.outside(300, 300) < 1 for box in boxes)
    assert all(a.overlap(b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


@given(st.text())
def test_clean_text_has_nothing_that_a_terminal_obeys(value):
    assert not set(number_format.clean(value)) & {chr(i) for i in (*range(9), *range(11, 32), *range(127, 160))}
    assert len(number_format.clean(value, 10)) <= 10
    assert "\n" not in number_format.first_line(value)


@given(st.text(alphabet="<>|`*_[]()#a\n \\"))
def test_markdown_cells_stay_in_their_cell(value):
    found = escape(value)
    assert "\n" not in found and "<" not in found and not re.search(r"(?<!\\)(\\\\)*\|", found)


@given(st.floats(-1e9, 1e9), st.integers(0, 4))
def test_figures_read_back(value, digits):
    shown = number_format.signed(value, digits)
    assert float(shown.replace(",", "").replace(number_format.MINUS, "-")) == pytest.approx(
        round(value, digits), abs=1e-9
    )
    assert shown[0] in "+" + number_format.MINUS or float(shown.replace(",", "")) == 0


def test_figures_have_about_four_digits():
    assert [number_format.decimals([v]) for v in (12345, 1234, 123.4, 12.3, 1.2, 0.01, 0)] == [0, 0, 1, 2, 3, 4, 1]
    assert number_format.number(-1234.56, 1) == "−1,234.6" and number_format.number(-0.0001, 2) == "0.00"
    assert number_format.size_unit([16_000_000_000]) == ("GB", 1e9) and number_format.size_unit([]) == ("kB", 1e3)
    assert [number_format.duration(s) for s in (3.21, 125, 7300)] == ["3.2 s", "2 min 5 s", "2 h 1 min"]
