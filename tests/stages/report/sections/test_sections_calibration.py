"""What the report makes of a calibration's summary, and of the lack of one."""

import copy
import io
import json
import re
from dataclasses import replace

import pytest
from support.report_page import ATTACK, Page, contrast, palettes, shortened
from support.synthetic_calibration import SAMPLES_AT, TECHNIQUES, summary, write_choice, write_summary
from support.synthetic_results import STUDY, Run

import pipeline.stages.quantize
from pipeline.config import Stage
from pipeline.results.base import Missing
from pipeline.results.calibration import read_summary
from pipeline.stages import report
from pipeline.stages.report import sections
from pipeline.stages.report.build import build
from pipeline.stages.report.document import CalibrationFindings
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.sections import activation_ranges, outliers
from pipeline.stages.report.sections.calibration import headline
from pipeline.stages.report.vega.spec import decades
from pipeline.stages.report.vega.styles import COLOURS

FEW = ("bf16", "fp8_static", "awq")


@pytest.fixture(autouse=True)
def observed(monkeypatch):
    """A quantize stage that states the technique of static activations, whatever else it states."""
    original = pipeline.stages.quantize.identity

    def identity(job):
        payload = {name: value for name, value in original(job).items() if name != "observer"}
        if job.settings.quant.scheme != "FP8":
            return payload
        return {**payload, "observer": {"technique": "minmax", "percentile": 99.99, "averaging_constant": 0.01}}

    monkeypatch.setattr(pipeline.stages.quantize, "identity", identity)


def made(folder, layers=4, content=None, **options):
    run = Run(folder, {name: STUDY[name] for name in options.pop("names", FEW)}, **options)
    write_summary(run, layers=layers, content=content)
    return run


def written(run, name="index.html"):
    report.make(run.jobs, run.failures)
    return (run.outputs / "tiny" / "report" / name).read_text()


def seen_of(content, folder):
    (calibration,) = build(made(folder, content=content).jobs, {}).calibrations
    return calibration.seen


def test_the_section_says_who_used_what_and_what_became_of_it(tmp_path, capsys):
    run = made(tmp_path)
    page = re.sub(r"<wbr>|<[^>]+>", "", written(run))
    text = summary(4)["verdict"]["minmax"]["text"]
    assert f"{text}. Used by FP8 static." in page
    assert "FP8 static (minmax), AWQ (tokens only)" in page
    assert page.index(f"{text}. Used") < page.index(summary(4)["verdict"]["entropy"]["text"])
    for part in ("ab12" * 16, "26334ac1" * 8, "en 78.5 %, zh 19 %", "3 of 600 (0.5 %), 13-grams of words"):
        assert part in page
    assert "n/a: the data of ceval-valid cannot be reached" in page
    tokens = f"{summary(4)['tokens']:,}"
    assert f"calibration demo: 200 conversations, {tokens} tokens; minmax {text}" in written(run, "report.md")
    capsys.readouterr()


def test_the_data_hold_what_is_shown(tmp_path, capsys):
    run = made(tmp_path)
    content = json.loads(written(run, "report.json"))
    (calibration,) = content["calibrations"]
    assert calibration["key"] == run.job("fp8_static").artifact(Stage.CALIBRATE).key
    assert [use["technique"] for use in calibration["used_by"]] == ["minmax", None]
    assert calibration["seen"]["techniques"][0]["technique"] == "minmax"
    assert calibration["seen"]["site_count"] == 24 and len(calibration["seen"]["convergence"]["mse"]) == len(SAMPLES_AT)
    assert content["schema_version"] == 4


@pytest.mark.parametrize("layers", [1, 4, 36])
def test_page_is_valid_self_contained_and_small(tmp_path, capsys, layers):
    without = written(Run(tmp_path, {name: STUDY[name] for name in FEW}))
    page = written(made(tmp_path, layers))
    assert len(page.encode()) - len(without.encode()) < 1_000_000
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)|NaN|undefined", page)
    found = Page(page)
    assert not found.open and found.tags.count("script") == 1
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert {v for _, name, v in found.attributes if name == "aria-labelledby"} <= set(ids)
    # Four pictures of the calibration beside those of the results, each in two layouts with a table.
    figures = found.tags.count("figure")
    assert figures == Page(without).tags.count("figure") + 4 == page.count("<summary>The figures: ")
    assert len([v for tag, name, v in found.attributes if tag == "svg" and name == "aria-label"]) == 2 * figures


def test_hostile_text_stays_text(tmp_path, capsys):
    content = summary(2)
    for site in content["sites"]:
        if site["modules"]:
            site["name"], site["kind"], site["layer"] = f"{site['name']}{ATTACK}", f"{site['kind']}{ATTACK}", 0
    content["worst"][0]["site"] = max(content["sites"], key=lambda s: (bool(s["modules"]), s["outlier_ratio"]))["name"]
    content["verdict"] = {name: {**found, "text": ATTACK} for name, found in content["verdict"].items()}
    content["card"]["name"] = content["card"]["sources"][0]["source"] = ATTACK
    content["card"]["languages"] = {ATTACK: 1.0}
    run = made(tmp_path, content=content)
    page = Page(written(run))
    assert not page.open and page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)" in "".join(page.text)
    for name in ("index.html", "report.md", "report.json"):
        text = (run.outputs / "tiny" / "report" / name).read_text()
        assert "\x1b" not in text and "‮" not in text
    assert "<script" not in (run.outputs / "tiny" / "report" / "report.md").read_text()
    assert "\x1b" not in run.shown.getvalue()


BROKEN = {
    "{": "cannot be read",
    "[]": "schema version None",
    '{"schema_version": 99}': "schema version 99, this release reads 1",
    '{"schema_version": 1}': "cannot be read (conversations: Field required)",
    json.dumps({**summary(1), "tolerance": float("nan")}): "tolerance",
    json.dumps({**summary(1), "samples_at": [1, 2]}): "samples_at",
    "[" * 100_000: "cannot be read",
}


@pytest.mark.parametrize("content", BROKEN, ids=list(BROKEN.values()))
def test_a_summary_that_cannot_be_read_is_a_stated_reason(tmp_path, capsys, content):
    page = written(made(tmp_path, content=content))
    assert "Calibration data and ranges" in page
    assert BROKEN[content] in " ".join("".join(Page(page).text).split())


def test_a_calibration_of_an_earlier_release_has_no_summary(tmp_path):
    assert "earlier release" in read_summary(tmp_path).reason
    (tmp_path / "summary.json").mkdir()
    assert isinstance(read_summary(tmp_path), Missing)


def test_fields_of_a_later_release_are_passed_over(tmp_path):
    content = {**summary(1), "new": 1}
    content["card"]["template"]["new"] = 2
    (tmp_path / "summary.json").write_text(json.dumps(content))
    assert read_summary(tmp_path).card.template.applied


def test_when_only_calibrate_has_run(tmp_path, capsys):
    run = made(tmp_path, names=("fp8_static",), stages=(Stage.CALIBRATE,))
    page = written(run)
    assert "No verdict: nothing has been measured yet." in page
    assert "Calibration data and ranges" in page and "Used by FP8 static" in page
    for absent in ("Quality against throughput", "task by task", "Checkpoint size", "Measured with", "Best:"):
        assert absent not in page
    assert "eval has not run" in page


def test_a_calibration_that_no_row_uses_is_shown_where_it_is_the_only_one(tmp_path, capsys):
    made(tmp_path, names=("fp8_static",), stages=(Stage.CALIBRATE,))
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, stages=())
    assert "no variant shown" in written(run)
    settled = [name for name, found in summary(4)["verdict"].items() if found["stable_after"] is not None]
    assert f"stable to 1 %: {settled[0]} after" in written(run, "report.md")


def test_a_failed_calibration_has_no_section(tmp_path, capsys):
    variants = {"fp8_static": replace(STUDY["fp8_static"], missing={"calibrate": "failed: no memory"})}
    assert "Calibration data and ranges" not in written(Run(tmp_path, variants))


def test_two_calibrations_keep_their_charts_apart(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in FEW}, single="bf16")
    write_summary(run)
    write_choice(run, "fp8_static", "entropy", 64)
    report.make(run.jobs, {})
    rows = build(run.jobs, {}).calibrations
    assert len(rows) == 2
    for calibration in rows:
        folder = run.outputs / "tiny" / f"calibrate-{calibration.key[:8]}"
        (folder / "summary.json").write_text(json.dumps(summary(2)))
    page = Page(written(run))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and page.tags.count("figure") >= 8


def odd(change):
    content = copy.deepcopy(summary(2))
    change(content)
    return content


def no_layers(content):
    for site in content["sites"]:
        site["layer"] = None


def no_values(content):
    for site in content["sites"]:
        site.update(minimum=0.0, maximum=0.0, outlier_ratio=0.0, clip={}, outlier_channels=[])
        site["convergence"] = {name: [0.0] * len(SAMPLES_AT) for name in TECHNIQUES}
    content["worst"] = [{"site": content["sites"][0]["name"], "edges": [1.0, 2.0], "counts": [0], "zeros": 7}]


def one_sample(content):
    content["samples_at"], content["conversations"] = [1], 1
    for site in content["sites"]:
        site["convergence"] = {name: curve[:1] for name, curve in site["convergence"].items()}
    content["card"]["lengths"].update(edges=[64.0, 64.0], counts=[1])


def many_kinds(content):
    for index, site in enumerate(content["sites"]):
        site["kind"] = f"kind {index}"


def nothing_beside_the_sites(content):
    content.update(worst=[], verdict={}, sites=[])
    content["card"].update(languages={}, overlap=[], counts={}, sources=[])
    content["card"]["lengths"].update(edges=[], counts=[])


@pytest.mark.parametrize("change", [no_layers, no_values, one_sample, many_kinds, nothing_beside_the_sites])
def test_odd_models_and_sets_are_rendered(tmp_path, capsys, change):
    page = written(made(tmp_path, content=odd(change)))
    assert not Page(page).open and "NaN" not in page


def test_more_kinds_than_colours_are_merged_from_the_smallest(tmp_path):
    seen = seen_of(odd(many_kinds), tmp_path)
    styles = activation_ranges.kind_styles(seen)
    assert len(styles) == len(COLOURS) and activation_ranges.REST in styles
    largest = max(seen.ranges, key=lambda item: item.largest)
    assert largest.kind in styles


def test_figures_of_the_pictures_are_those_of_the_file(tmp_path):
    content = summary(4)
    seen = seen_of(content, tmp_path)
    assert isinstance(seen, CalibrationFindings)
    site = content["sites"][3]
    table = activation_ranges.range_table(seen)
    row, column = table.rows[site["layer"]], table.head.index(site["kind"])
    assert row[column] == figure(max(-site["minimum"], site["maximum"]))
    clips = {row[0]: row for row in activation_ranges.clip_table(seen, "").rows}
    head = activation_ranges.clip_table(seen, "").head
    assert clips[site["name"]][head.index("minmax")] == figure(site["clip"]["int8"]["minmax"])
    # Only techniques that weigh errors clip differently for each format.
    assert "mse, int8" in head and "percentile, int8" not in head
    assert len(outliers.histogram_tables(seen)) == len(content["worst"])


def test_charts_are_valid_vega_lite(tmp_path):
    alt = pytest.importorskip("altair")
    page = sections.page(build(made(tmp_path, content=summary(4)).jobs, {}))
    charts = {chart.name: chart for chart in page.charts}
    for name in ("ranges-0", "outliers-0", "settling-0", "lengths-0"):
        alt.Chart.from_dict(shortened(charts[name].specs["wide"]))


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_marks_stand_out_from_the_page(palette):
    for index in range(1, 9):
        assert contrast(palette[f"s-{index}"], palette["surface"]) >= 3


@pytest.mark.parametrize(("low", "high"), [(1, 200), (0.02, 9000), (1e-7, 1e5), (3, 4), (5, 5)])
def test_logarithmic_axes_have_labels_inside(low, high):
    ticks = decades(low, high, 6)
    assert len(ticks) <= 7 and all(low <= tick <= high * 1.0001 for tick in ticks)


def test_the_line_of_several_rows(tmp_path):
    run = made(tmp_path)
    run.shown.truncate(0)
    (calibration,) = build(run.jobs, {}).calibrations
    line = headline(calibration)
    assert line.count("minmax") == 1 and "\n" not in line
    assert headline(calibration.model_copy(update={"seen": Missing(reason="gone")})).endswith("gone")
    assert isinstance(run.shown, io.StringIO)


def test_the_tokens_of_experts_are_shown_by_layer(tmp_path, capsys):
    content = summary(2)
    content["experts"] = [
        {"name": "model.layers.0.mlp.experts", "layer": 0, "tokens": [40, 1200, 7, 9], "since": [0, 0, 3, 1]},
        {"name": "model.layers.1.mlp.experts", "layer": 1, "tokens": [0, 1256, 0, 0], "since": [None, 0, None, None]},
    ]
    run = made(tmp_path, content=content)
    rows = [line for line in written(run, "report.md").splitlines() if line.startswith(("| 0 | 4 |", "| 1 | 4 |"))]
    assert rows == ["| 0 | 4 | 7 | 24.50 | 1,200 | none |", "| 1 | 4 | 0 | 0 | 1,256 | 0, 2-3 |"]
    assert "every expert was shown every token" in written(run)
    capsys.readouterr()


def test_a_dense_model_has_no_table_of_experts(tmp_path, capsys):
    assert "Expert coverage" not in written(made(tmp_path))
    capsys.readouterr()
