"""The harness sees what it looks for, goes on where it stopped, and its document follows from its results."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.settings import settings_of

from pipeline.artifacts.workspace import Workspace
from pipeline.config import PROJECT_ROOT
from pipeline.errors import StageError
from tools.reliability import kills
from tools.reliability.command import MARK, SETTINGS, Case, Results, ended, steps
from tools.reliability.page import page


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Artifacts of every stage, made in no time."""
    workspace = Workspace(tmp_path / "outputs")
    for stage, variant in (("calibrate", None), *((s, v) for s in ("quantize", "eval") for v in ("bf16", "awq"))):
        with workspace.making(workspace.artifact(stage, "demo", variant, {"of": variant}), {}) as draft:
            (draft.folder / "checkpoint").mkdir()
            (draft.folder / "checkpoint" / "weights").write_text(stage)
    return workspace.root


def case_of(outputs: Path) -> Case:
    return Case(outputs, outputs.with_name("temporary"), "test of the harness")


def test_the_moments_are_seeded_and_cover_each_step_signal_and_target(outputs: Path) -> None:
    found = [moment for number in range(len(kills.ROUNDS)) for moment in kills.moments(outputs, number)]
    assert found == [moment for number in range(len(kills.ROUNDS)) for moment in kills.moments(outputs, number)]
    for step in steps(outputs):
        sides = {each.side for each in found if (each.stage, each.variant) == step}
        assert sides == {"before", "after", "within"}
    assert {(each.number, each.target) for each in found} == {(n, t) for n in kills.SIGNALS for t in kills.TARGETS}
    # A run of two variants has ten steps where this one has five.
    assert len(found) * 10 / len(steps(outputs)) >= 60


def test_an_undisturbed_folder_has_no_faults(outputs: Path) -> None:
    case = case_of(outputs)
    assert case.faults() == case.drafts() == []
    assert len(case.checkpoints()) == 2


def test_half_made_changed_and_failed_artifacts_are_seen(outputs: Path) -> None:
    (manifest,) = outputs.glob("demo/awq/eval-*/manifest.json")
    manifest.unlink()
    (weights,) = outputs.glob("demo/awq/quantize-*/checkpoint/weights")
    weights.write_text("QUANTIZE")
    workspace = Workspace(outputs)
    with pytest.raises(StageError), workspace.making(workspace.artifact("bench", "demo", "awq", {}), {}):
        raise StageError("it failed.")
    (outputs / "demo" / ".bench-12345678.1.tmp").mkdir()
    found = sorted(case_of(outputs).faults())
    assert ["failed before" in found[0], "no manifest" in found[1], "SHA-256" in found[2]] == [True] * 3
    assert case_of(outputs).drafts() == [".bench-12345678.1.tmp"]


def test_a_process_that_left_its_group_is_found_and_ended(outputs: Path) -> None:
    case = case_of(outputs)
    with ended(subprocess.Popen(["sleep", "60"], start_new_session=True, env={MARK: case.name})) as child:
        # The kernel shows a new process's environment a little after its start.
        deadline = time.monotonic() + 10
        while not case.processes() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert case.processes() == [child.pid]
        assert case.orphans(patience=0.1) == ["process sleep"]
        assert child.wait(10) == -signal.SIGKILL
    assert case.processes() == []


VICTIM = """
import sys
from pathlib import Path
import tools.reliability.victim as victim
from pipeline.artifacts.workspace import Workspace
victim.arm(sys.argv[2], "awq/eval-", 9, group=False)
workspace = Workspace(Path(sys.argv[1]))
for stage in ("quantize", "eval"):
    with workspace.making(workspace.artifact(stage, "demo", "awq", {}), {}) as draft:
        (draft.folder / "x").touch()
"""


@pytest.mark.parametrize(("side", "made"), [("before", ["quantize"]), ("after", ["eval", "quantize"])])
def test_a_victim_ends_right_before_or_after_its_publication(tmp_path: Path, side: str, made: list[str]) -> None:
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "outputs"), side]
    assert subprocess.run(command, cwd=PROJECT_ROOT).returncode == -signal.SIGKILL
    found = [path.name.partition("-")[0] for path in (tmp_path / "outputs").glob("demo/awq/*-*") if path.name[0] != "."]
    assert sorted(found) == made
    assert case_of(tmp_path / "outputs").faults() == []


def test_results_are_kept_and_the_document_follows_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tmp_path / "results.jsonl")
    kill = {"kind": "kill", "number": "SIGTERM", "target": "group", "seconds": 3.25, "code": 143}
    results.add("kill 0.00", **kill, lost=[])
    results.add("kill 0.01", **kill, lost=["process vllm"])
    results.add("disk bench", kind="disk", lost=[], skipped="no mount is possible here")
    results.add("readers", kind="fuzz", lost=[], documents=12345)
    results.add("root: files", kind="sandbox", way="root, namespaces", lost=["read: /etc"], attempts=9, admitted=1)
    results.add("root: kernel", kind="sandbox", way="root, namespaces", lost=[], attempts=4, admitted=0)
    results.add("user: files", kind="sandbox", way="user, bubblewrap", lost=[], skipped="no bubblewrap")
    again = Results(tmp_path / "results.jsonl")
    assert "kill 0.01" in again and "kill 0.02" not in again
    text = page(again)
    assert "| Killed runs | 2 | 1 |" in text and "| Full and read-only disks | 0 | 0 |" in text
    assert "| Files that others wrote | 12,345 documents | 0 |" in text
    assert "| Ways out of the sandbox | 13 attempts | 1 |" in text and "* root: files: read: /etc" in text
    assert "| root, namespaces | 13 | 1 | 1 |" in text and "| user, bubblewrap | not tried: no bubblewrap | | |" in text
    assert "| SIGTERM, group | 2 |" in text and "took 3.2 s" in text
    assert "* kill 0.01: process vllm" in text and "not tried, no mount is possible here" in text
    assert "kill 0.00: ok" in capsys.readouterr().out


def test_the_settings_of_the_harness_are_those_of_the_command() -> None:
    plain = [each for each in SETTINGS if not each.startswith(("variants=", "stage="))]
    assert settings_of(*plain).eval.limit == 4


@pytest.mark.slow
@pytest.mark.vllm
def test_ten_minutes_of_kills_lose_nothing(tmp_path: Path) -> None:
    asked = ["--minutes", "10", "--only", "kills", "--work", str(tmp_path / "w"), "--page", str(tmp_path / "page.md")]
    answer = subprocess.run([sys.executable, "-m", "tools.reliability", *asked], cwd=PROJECT_ROOT, timeout=1800)
    lines = (tmp_path / "w" / "results.jsonl").read_text().splitlines()
    assert answer.returncode == 0, [each for each in map(json.loads, lines) if each["lost"]]


def test_a_step_that_ended_between_two_looks_has_begun(outputs: Path) -> None:
    case = case_of(outputs)
    moments = {(each.stage, each.variant): each for each in kills.moments(outputs, 0)}
    assert kills._has_begun(case, moments["quantize", "awq"], 5, 0.0)
    assert kills._has_begun(case, moments["calibrate", ""], 5, 0.0)
    assert kills._has_begun(case, moments["report", ""], 5, 0.0)
    assert not kills._has_begun(case, moments["report", ""], 6, 0.0)
    for folder in kills._artifacts(case, moments["quantize", "awq"], "{}-*"):
        folder.rename(folder.with_name(f".{folder.name}.7.old"))
    assert not kills._has_begun(case, moments["quantize", "awq"], 5, 0.0)
    # A draft of a killed run is older than the rerun, which has not begun the step.
    draft = case.outputs / "demo" / "awq" / ".quantize-12345678.8.tmp"
    draft.mkdir(parents=True)
    changed = draft.stat().st_ctime
    assert kills._has_begun(case, moments["quantize", "awq"], 5, changed - 1)
    assert not kills._has_begun(case, moments["quantize", "awq"], 5, changed + 1)
