"""What a CI shows of `stage=gate`: JUnit XML and a job summary, of real comparisons and of texts that attack them."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.report_page import ATTACK
from support.synthetic_results import STUDY, Run

from pipeline.errors import Regression, StageError
from pipeline.results.text import clean
from pipeline.stages import report
from pipeline.stages.report.ci_files import Case, junit, markdown

THREE = {name: STUDY[name] for name in ("bf16", "fp8_static", "gptq")}
SLOW = {"gptq": replace(STUDY["gptq"], throughput=STUDY["gptq"].throughput * 0.7, lost=90)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The outputs of a first run."""
    run = Run(tmp_path_factory.mktemp("first"), THREE, formats=("json",))
    report.make(run.jobs, {})
    return run.outputs


def gated(tmp_path: Path, stored: Path, changed=None, **settings):
    run = Run(tmp_path, THREE | (changed or {}), formats=("json",))
    run.stage = ["gate"]
    files = {"junit": str(tmp_path / "ci" / "gate.xml"), "job_summary": str(tmp_path / "summary.md")}
    run.report = {"baseline": str(stored), **files, **settings}
    return report.make(run.jobs, {})


def suites(tmp_path: Path) -> dict[str, ElementTree.Element]:
    root = ElementTree.parse(tmp_path / "ci" / "gate.xml").getroot()
    counted = {name: sum(int(suite.attrib[name]) for suite in root) for name in ("tests", "failures", "skipped")}
    assert counted == {name: int(root.attrib[name]) for name in counted}
    return {suite.attrib["name"]: suite for suite in root}


def test_a_regression_is_a_failure_of_its_figure(tmp_path, stored):
    assert isinstance(gated(tmp_path, stored, SLOW)["gptq"], Regression)
    found = suites(tmp_path)
    assert list(found) == ["BF16", "FP8 static", "GPTQ"]
    failed = {case.attrib["name"] for case in found["GPTQ"] if case.find("failure") is not None}
    assert {"Throughput (tok/s)", "MMLU (%)"} <= failed
    assert not found["BF16"].findall(".//failure") and not found["FP8 static"].findall(".//failure")
    throughput = next(case for case in found["GPTQ"] if case.attrib["name"] == "Throughput (tok/s)")
    assert throughput.find("failure").attrib["message"].startswith("worse: \u221230")
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### Gate failed: GPTQ\n")
    assert "**worse**" in summary.splitlines()[6], "failures come first"


def test_a_run_without_a_change_passes_and_is_appended(tmp_path, stored):
    (tmp_path / "summary.md").write_text("## Another step\n")
    assert gated(tmp_path, stored) == {}
    found = suites(tmp_path)
    assert not any(suite.findall(".//failure") for suite in found.values())
    assert (tmp_path / "summary.md").read_text().startswith("## Another step\n### Gate passed\n")


def test_what_may_be_worse_fails_only_on_request(tmp_path, stored):
    noisy = {"gptq": replace(STUDY["gptq"], throughput=STUDY["gptq"].throughput * 0.97, noise=0.03)}
    for number, strict in enumerate((False, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        failed = gated(folder, stored, noisy, fail_on_undecided=strict)
        shown = [name for name, suite in suites(folder).items() if suite.findall(".//failure")]
        assert bool(shown) is strict and len(shown) == len(failed)


def test_files_are_written_where_nothing_could_be_compared(tmp_path, stored):
    content = json.loads((stored / "tiny" / "report" / "report.json").read_text())
    other = tmp_path / "report.json"
    other.write_text(json.dumps(content | {"model": "another", "weights": "of another"}))
    with pytest.raises(StageError, match="no figure of this run can be compared"):
        gated(tmp_path, other)
    assert all(int(suite.attrib["skipped"]) == len(suite) for suite in suites(tmp_path).values())


def test_a_file_that_cannot_be_written_is_named(tmp_path, stored):
    (tmp_path / "ci").write_text("not a folder")
    with pytest.raises(StageError, match=r"report\.junit=.*gate\.xml: .* Name a file that can be written"):
        gated(tmp_path, stored)


def test_no_text_breaks_out_of_either_file():
    case = Case(ATTACK, f"\x00{ATTACK}", "1", "2", ATTACK, "worse", "failed")
    root = ElementTree.fromstring(junit([case]))
    (found,) = root.iter("testcase")
    assert found.attrib["name"] == clean(ATTACK)
    row = markdown([case], "monday").splitlines()[-1]
    assert "<script" not in row and row.replace("\\|", "").count("|") == 7
