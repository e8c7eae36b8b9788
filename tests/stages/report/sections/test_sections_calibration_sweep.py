"""The table of what calibration choices changed: which results belong to it, and how they are shown."""

import json

import pytest
from support.report_page import Page
from support.synthetic_calibration import write_choice
from support.synthetic_results import STUDY, Run

from pipeline.stages import report
from pipeline.stages.report.build import build

TITLE = "Effect of the calibration"


@pytest.fixture
def run(tmp_path):
    """A report of BF16 among its peers; FP8 static was made by min-max with 8 samples last."""
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, single="bf16")
    for technique, samples, lost in (("percentile", 8, 6), ("minmax", 64, 5), ("entropy", 8, 40), ("minmax", 8, 4)):
        write_choice(run, "fp8_static", technique, samples, lost)
    return run


def rows(run):
    return [(r.choice.technique, r.choice.samples, r.is_current) for s in build(run.jobs, {}).sweeps for r in s.rows]


def points(interval):
    return " to ".join(f"{100 * interval[end]:+.1f}".replace("-", "−") for end in ("low", "high"))


def test_rows_are_sorted_by_technique_and_samples(run):
    assert rows(run) == [
        ("entropy", 8, False),
        ("minmax", 8, True),
        ("minmax", 64, False),
        ("percentile", 8, False),
    ]


def test_every_format_shows_the_table(run, capsys):
    report.make(run.jobs, {})
    folder = run.outputs / "tiny" / "report"
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    assert TITLE in page and TITLE in text and TITLE not in run.shown.getvalue()
    assert not Page(page).open
    (sweep,) = json.loads((folder / "report.json").read_text())["sweeps"]
    worst = sweep["rows"][0]
    assert worst["tasks"]["MMLU"]["change"]["difference"] == pytest.approx(-0.19)
    change = worst["mean_change"]
    assert change["interval"]["low"] < change["value"] < change["interval"]["high"] < 0
    low = f"{100 * change['interval']['low']:+.2f}".replace("-", "−")
    assert "−19.00" in page and low in page and f"(−19.00; {low}" in text and "; worse)" in text
    assert "percentile 99.99" in page
    # Not only under the pointer: on a phone, on paper, and in the text.
    ends = f"{points(worst['tasks']['MMLU']['change']['interval'])}"
    assert f'<span class="ends">{ends}</span>' in page and f"(−19.0; {ends}; worse)" in text


def test_one_choice_is_no_table(tmp_path, capsys):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, single="bf16")
    write_choice(run, "fp8_static", "minmax", 8)
    report.make(run.jobs, {})
    assert not build(run.jobs, {}).sweeps
    assert TITLE not in (run.outputs / "tiny" / "report" / "index.html").read_text() + run.shown.getvalue()


def test_what_differs_in_more_than_calibration_is_left_out(run):
    write_choice(run, "fp8_static", "mse", 8, quant={"quant": {"scheme": "FP8", "ignore": []}})
    write_choice(run, "fp8_static", "mse", 16, calibrate={"seed": 5})
    write_choice(run, "fp8_static", "mse", 32, evaluate={"eval": {"limit": 7}})
    assert "mse" not in {technique for technique, _, _ in rows(run)}


def test_another_check_for_contamination_is_the_same_choice(run):
    write_choice(run, "fp8_static", "mse", 16, calibrate={"checked_against": {"MMLU": "other"}})
    assert ("mse", 16) in {row[:2] for row in rows(run)}


def test_a_choice_made_twice_is_one_row_and_the_latest(run):
    write_choice(run, "fp8_static", "entropy", 8, lost=20, parameter=50.0)
    (sweep,) = build(run.jobs, {}).sweeps
    assert len(sweep.rows) == 4
    assert sweep.rows[0].tasks["MMLU"].change.difference == pytest.approx(-0.09)


def test_percentiles_are_choices_of_their_own(run):
    write_choice(run, "fp8_static", "percentile", 8, parameter=99.9)
    write_choice(run, "fp8_static", "minmax", 8, parameter=99.9)
    assert [row[0] for row in rows(run)].count("percentile") == 2
    assert [row[0] for row in rows(run)].count("minmax") == 2


def test_without_a_baseline_the_accuracies_stand_alone(run):
    run.single = "fp8_static"
    found = [r for r in build(run.jobs, {}).sweeps[0].rows if not r.is_current]
    assert found
    run.workspace.root.joinpath("tiny", "bf16").rename(run.outputs / "elsewhere")
    for row in build(run.jobs, {}).sweeps[0].rows:
        assert row.mean_accuracy.value > 0 and "no BF16" in row.tasks["MMLU"].change.reason


def test_the_divergence_stands_beside_the_accuracies_where_it_was_measured(run, capsys):
    write_choice(run, "fp8_static", "mse", 8, divergence=0.05)
    write_choice(run, "fp8_static", "mse", 64, divergence=0.4)
    (sweep,) = build(run.jobs, {}).sweeps
    near, far = (row.divergence.kl for row in sweep.rows if row.choice.technique == "mse")
    assert 0 < near.value < far.value
    report.make(run.jobs, {})
    for name in ("index.html", "report.md"):
        text = (run.outputs / "tiny" / "report" / name).read_text()
        assert "KL from BF16" in text[text.index(TITLE) :]
