"""The plan before the spending: what a run would make, need and take, on one screen."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.machines import SERVER_CPU
from support.settings import command_of

from pipeline import plan
from pipeline.config import Stage
from pipeline.errors import PipelineError, StorageError
from pipeline.hardware.rules import NO_SPEED
from pipeline.runner import Runner
from pipeline.stages.report.collect import footprints

pytestmark = pytest.mark.usefixtures("server_cpu")
VARIANTS = "variants=bf16,w4a16"


def planned(outputs: Path, *words: str) -> tuple[Runner, dict[str, str]]:
    given = [*words, f"outputs={outputs}"]
    runner = Runner(command_of(*given), given)
    return runner, dict(runner._planned().lines())


def finish(runner: Runner, seconds: float, *stages: Stage) -> None:
    """Leave manifests as of finished steps."""
    for step in runner._planned().steps:
        if step.stage in stages and step.why is not None:
            artifact = step.job.artifact(step.stage)
            artifact.folder.mkdir(parents=True)
            content = {
                "schema_version": 1, "stage": artifact.stage, "model": artifact.model, "variant": artifact.variant,
                "status": "ok", "key": artifact.key, "payload": artifact.payload, "seconds": seconds,
                "started": "2026-01-01T00:00:00.000+00:00", "hardware": step.job.hardware.model_dump(mode="json"),
            }  # fmt: skip
            (artifact.folder / "manifest.json").write_text(json.dumps(content))


def test_the_plan_names_what_decides_a_run(tmp_path: Path) -> None:
    runner, lines = planned(tmp_path, VARIANTS, "stage=all")
    assert lines["model"].startswith("demo (") and "Qwen3ForCausalLM" in lines["model"]
    assert runner.jobs[0].hardware.name in lines["machine"] and "vLLM " in lines["machine"]
    assert lines["load"].startswith("quick: 64 requests of /") and lines["load"].endswith(", 16 in flight, 3 repeats")
    assert "C-Eval, MMLU, GSM8K, HumanEval, 300 items each" in lines["tasks"]
    assert lines["variants"] == "bf16, w4a16"
    assert lines["steps"] == "9 steps, 9 to make"
    assert lines["time"].startswith("not known: no step like these")
    assert "needs at least" in lines["memory"] and "are free" in lines["memory"]
    assert re.match(r"checkpoints of \d\.\d MB, \d+ GB are free in ", lines["disk"])
    assert lines["report"] == str(tmp_path / "demo" / "report" / "index.html")


def test_groups_that_are_smaller_than_the_schemes_are_said(tmp_path: Path) -> None:
    _, lines = planned(tmp_path, "variants=['w4a16(group_size=64)',awq]", "stage=quantize")
    assert lines["groups"] == "w4a16(group_size=64): 64 input channels share a scale, instead of 128"


def test_a_real_run_opens_with_the_plan_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner, lines = planned(tmp_path, VARIANTS, "stage=report")
    runner._describe(runner._planned())
    said = capsys.readouterr().err
    assert all(title in said and text in " ".join(said.split("\n")) for title, text in lines.items())


def test_minutes_are_those_of_earlier_steps_of_the_same_kind(tmp_path: Path) -> None:
    runner, _ = planned(tmp_path, VARIANTS, "stage=bench")
    finish(runner, 600, Stage.QUANTIZE, Stage.VERIFY, Stage.BENCH)
    # The load of another seed takes as long; another load is not known.
    _, lines = planned(tmp_path, VARIANTS, "stage=bench", "serve.extra_args=--x")
    assert lines["time"] == "about 40 min by earlier runs here"
    _, lines = planned(tmp_path, VARIANTS, "stage=bench", "bench.num_prompts=32")
    assert lines["time"].startswith("not known")
    _, lines = planned(tmp_path, VARIANTS, "stage=bench,eval", "serve.extra_args=--x")
    assert lines["time"] == "about 40 min by earlier runs here for 4 of 6 steps, not known for the others"
    # Steps of another model of that name tell nothing.
    for path in tmp_path.glob("demo/*/quantize-*/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "payload": {"model": {"files": {}}}}))
    _, lines = planned(tmp_path, VARIANTS, "stage=bench,eval", "serve.extra_args=--x")
    assert lines["time"].startswith("not known")


def test_nothing_to_do_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner, _ = planned(tmp_path, VARIANTS, "stage=quantize,report")
    finish(runner, 1, Stage.QUANTIZE)
    runner, lines = planned(tmp_path, VARIANTS, "stage=quantize,report", "dry_run=true")
    assert lines["steps"] == "2 steps, 0 to make" and "time" not in lines
    assert runner.plan() == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("nothing would run; the report would be written")
    page = tmp_path / "demo" / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("")
    runner.plan()
    assert capsys.readouterr().err.splitlines()[-1] == "nothing would run; the report is up to date"


def test_a_format_that_this_machine_emulates_is_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is sent to it: that it would be timed is no reason to run."""
    asked = ("variants=bf16,fp8_static,bf16+fp8_e4m3", "stage=all", "dry_run=true")
    runner, lines = planned(tmp_path, *asked)
    assert lines["not timed"] == f"fp8_static: {NO_SPEED}" and "left out" not in lines
    assert lines["steps"] == "13 steps, 12 to make"
    runner.plan()
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    made = ("verify: all 3 variants", "eval: all 3 variants", "bench: bf16, bf16+fp8_e4m3")
    assert {f"{step} run: not there yet" for step in made} | {"bench: fp8_static n/a"} <= set(said)
    finish(runner, 1, *Stage)
    runner, lines = planned(tmp_path, *asked)
    assert lines["steps"] == "13 steps, 0 to make"
    runner.plan()
    assert capsys.readouterr().err.splitlines()[-1].startswith("nothing would run; the report would be written")


def test_what_variants_share_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = SERVER_CPU.model_copy(update={"cpu_features": ("avx2",)})
    monkeypatch.setattr("pipeline.runner.probe", lambda device: old)
    runner, lines = planned(tmp_path, "experiment=study", "stage=all", "dry_run=true")
    assert lines["not timed"].startswith("all but bf16: emulated")
    runner.plan()
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert sum(NO_SPEED in line for line in said) == 1
    assert said[-5:] == [
        "quantize: all 8 variants run: not there yet",
        "verify: all 8 variants run: not there yet",
        "bench: bf16 run: not there yet",
        "eval: all 8 variants run: not there yet",
        "bench: all but bf16 n/a",
    ]


def test_a_job_of_a_sweep_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner, _ = planned(tmp_path, VARIANTS, "stage=quantize")
    assert runner.plan_in_a_line(3) == 0
    assert capsys.readouterr().err == f"job 3: {VARIANTS} stage=quantize outputs={tmp_path}: 2 steps, 2 to make\n"


def test_what_is_published_and_the_protocols_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner, _ = planned(
        tmp_path, VARIANTS, "stage=bench,publish", "protocols=quick,latency", "publish.repo_id=me/{variant}"
    )
    runner.plan()
    said = capsys.readouterr().err
    assert "bench (quick): bf16, w4a16" in said and "bench (latency): bf16, w4a16" in said
    assert "publish w4a16" in said and "me/w4a16 (a folder only: publish.dry_run=true)" in said


def test_what_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_free_gib", lambda device: 0.5)
    _, lines = planned(tmp_path, VARIANTS, "stage=bench")
    assert lines["memory"].endswith("0.5 GiB are free; it does not fit")


def test_a_config_that_does_not_tell_its_shapes_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("num_hidden_layers")

    monkeypatch.setattr(footprints, "of_format", unknown)
    _, lines = planned(tmp_path, VARIANTS, "stage=bench")
    assert lines["memory"] == "not known: config.json does not tell the shapes (KeyError)"


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["+eval.tasks.ARC={task: arc_chalenge, metric: acc}"], ["eval.tasks.ARC.task=arc_chalenge", "arc_challenge"]),
        (["eval.tasks.MMLU.metric=accuracy"], ["eval.tasks.MMLU.metric=accuracy", "acc"]),
        (["eval.data_dir=/nowhere"], ["eval.data_dir=/nowhere"]),
        (["eval.include_path=/nowhere"], ["eval.include_path=/nowhere: no such folder"]),
        (["bench.num_prompts=100000"], ["bench.num_prompts=100000", "has ", "rows"]),
        (["serve.max_model_len=1000000"], ["serve.max_model_len=1000000", "context of "]),
        (["quant=w4a16", "quant.ignore=foo"], ["foo"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_would_fail_late_are_refused_with_the_plan(
    tmp_path: Path, words: list[str], fragments: list[str]
) -> None:
    with pytest.raises(PipelineError) as caught:
        planned(tmp_path, *words)
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["stage=capabilities", "hardware.gpu=L40S"], []),
        (["quant=nope"], []),
        (["quant=awq", "quant.group_size=100"], []),
        # The hashes of the model's files, which take minutes for a large one.
        (["model=demo", "dry_run=true"], [".cache"]),
        (["-m", "model=demo", "dry_run=true", "quant=fp8_static,awq"], [".cache"]),
    ],
)
def test_a_job_that_makes_nothing_leaves_nothing(words: list[str], left: list[str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, cwd=tmp_path, check=False)
    assert [path.name for path in tmp_path.glob("outputs/*")] == left
    assert (tmp_path / "outputs").exists() == bool(left)


def test_outputs_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    words = ["stage=quantize", "quant=bf16", "outputs=mine"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *words], capture_output=True, cwd=tmp_path, text=True)
    assert done.returncode == StorageError.exit_code
    assert "outputs=mine cannot be written, it is no folder" in done.stderr and "Traceback" not in done.stderr
