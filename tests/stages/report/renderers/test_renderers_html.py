"""The page as a browser and a reader meet it: safe, self-contained, legible."""

import csv
import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from support.report_page import ATTACK, Page, contrast, luminance, palettes, shortened
from support.synthetic_results import STUDY, TITLES, Run

from pipeline.stages import report
from pipeline.stages.report import sections
from pipeline.stages.report.build import build

FORMULA = "=cmd|'/C calc'!A0"


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


def test_every_chart_has_a_table_of_its_figures_and_a_description(study, page):
    found = Page(page)
    charts = {chart.name: chart for chart in sections.page(build(study.jobs, {})).charts}
    assert {"quality", "latency", "ladder", "forest", "memory", "size", "roofline", "what-if"} <= set(charts)
    assert found.tags.count("figure") == len(charts)
    assert page.count("<summary>The figures: ") == len(charts)
    described = [v for tag, name, v in found.attributes if tag == "svg" and name == "aria-label"]
    assert len(described) == 2 * len(charts) and all(len(text) > 30 for text in described)
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


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_contrast_meets_wcag_aa(palette):
    for ground in ("page", "surface", "raised"):
        for ink in ("ink", "muted", "accent", "warn", "c-gain", "c-loss"):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    assert contrast(palette["accent"], palette["accent-soft"]) >= 4.5
    assert contrast(palette["warn"], palette["warn-soft"]) >= 4.5
    for mark in ("c-baseline", "c-both", "c-weights", "c-kv", "c-other"):
        assert contrast(palette[mark], palette["surface"]) >= 3


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_colours_of_families_differ_in_luminance_too(palette):
    """In greyscale, bars of two families are not one."""
    shades = sorted(luminance(palette[name]) for name in ("c-baseline", "c-both", "c-weights", "c-kv", "c-other"))
    assert all((high + 0.05) / (low + 0.05) >= 1.2 for low, high in pairwise(shades))
    parts = sorted(luminance(palette[name]) for name in ("s-1", "s-3", "s-8"))
    assert all((high + 0.05) / (low + 0.05) >= 1.2 for low, high in pairwise(parts))


def test_charts_are_valid_vega_lite(study):
    alt = pytest.importorskip("altair")
    charts = {chart.name: chart for chart in sections.page(build(study.jobs, {})).charts}
    for chart in charts.values():
        assert list(chart.specs) == ["wide", "narrow"]
        # The narrow layout has the same marks in other sizes.
        alt.Chart.from_dict(shortened(chart.specs["wide"]))
