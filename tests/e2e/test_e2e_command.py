"""The command as a user runs it: real llm-compressor, real vLLM, real lm-eval, on the demo model."""

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.config import PROJECT_ROOT
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, InputError
from pipeline.hardware.rules import NO_SPEED
from pipeline.stages.report.vega import svg_cache

SMALL = ("bench.num_prompts=8", "bench.repeats=2", "bench.warmup_prompts=2", "eval.limit=11")


def run(outputs: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments, f"outputs={outputs}"],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=PROJECT_ROOT,
        env={**os.environ, svg_cache.CACHE: str(outputs.with_name("drawings"))},
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one whole run over three variants, which the tests below look at and rerun."""
    folder = tmp_path_factory.mktemp("e2e") / "outputs"
    answer = run(folder, "stage=all", "variants=[bf16,fp8_static,bf16+fp8_e4m3]", *SMALL)
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout.strip().splitlines()[-1])
    assert {row["variant"] for row in summary["variants"]} == {"bf16", "fp8_static", "bf16+fp8_e4m3"}
    return folder


def manifests(outputs: Path, stage: str) -> dict[str, dict]:
    found = {}
    for path in outputs.glob(f"demo/**/{stage}-*/manifest.json"):
        content = json.loads(path.read_text())
        found[content["variant"]] = content
    return found


@pytest.mark.vllm
def test_every_stage_leaves_a_whole_artifact(outputs: Path) -> None:
    for stage in ("quantize", "verify", "eval"):
        found = manifests(outputs, stage)
        assert set(found) == {"bf16", "fp8_static", "bf16+fp8_e4m3"}
        assert all(manifest["status"] == "ok" for manifest in found.values())


@pytest.mark.vllm
def test_figures_come_from_a_real_server_and_emulated_formats_have_no_speed(outputs: Path) -> None:
    servers = {name: each["results"]["server"] for name, each in manifests(outputs, "eval").items()}
    assert servers["bf16"]["emulated"] == []
    for variant, manifest in manifests(outputs, "bench").items():
        results = manifest["results"]
        if servers[variant]["emulated"]:
            assert (manifest["status"], manifest["reason"], results) == ("not_applicable", NO_SPEED, {})
            continue
        assert results["completed"] == results["asked"] == 16 and results["server"]["emulated"] == []
        assert len(results["metrics"]["total_token_throughput"]["values"]) == 2
    if manifests(outputs, "eval")["fp8_static"]["hardware"]["device"] == "cpu":
        assert servers["fp8_static"]["emulated"] == ["fp8_w8a8_static"]


@pytest.mark.slow
@pytest.mark.vllm
def test_a_second_block_measures_every_variant_again_on_a_new_server(tmp_path: Path) -> None:
    asked = ("stage=[bench,report]", "variants=[bf16,bnb_nf4]", *SMALL)
    for blocks in (1, 2):
        answer = run(tmp_path, *asked, f"bench.blocks={blocks}", timeout=1800)
        assert answer.returncode == 0, answer.stderr
    again = [line.split()[:4] for line in answer.stderr.splitlines() if " done " in line]
    assert [line[:2] for line in again] == [["bench", "bnb_nf4,"], ["bench", "bf16,"]]
    for variant in ("bf16", "bnb_nf4"):
        stored = [json.loads(path.read_text()) for path in tmp_path.glob(f"demo/{variant}/bench-*/manifest.json")]
        first, second = sorted((each["results"] for each in stored), key=lambda result: result["block"])
        assert (first["block"], second["block"]) == (0, 1)
        assert first["server"]["log"] != second["server"]["log"]
        assert [result["loads"][0]["seeds"] for result in (first, second)] == [[0, 1], [2, 3]]
        assert first["device"] == second["device"] == stored[0]["hardware"]["device_id"]
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    assert report["setup"]["Blocks"] == "2, each with a start of every variant's server"
    cell = report["comparison"]["rows"][1]["speed"]["total_token_throughput"]
    assert len(cell["measured"]["values"]) == 4
    print([(each["variant"], each["payload"].get("block"), each["seconds"]) for each in stored])


@pytest.mark.vllm
def test_static_scales_are_those_of_the_observed_ranges(outputs: Path) -> None:
    import torch
    from safetensors.torch import load_file

    (ranges,) = outputs.glob("demo/calibrate-*/ranges.safetensors")
    observed = load_file(ranges)
    (weights,) = outputs.glob("demo/fp8_static/quantize-*/checkpoint/model.safetensors")
    (cache,) = outputs.glob("demo/bf16+fp8_e4m3/quantize-*/checkpoint/kv_scales.safetensors")
    scales = {name: value for name, value in load_file(weights).items() if name.endswith(".input_scale")}
    assert len(scales) == 28
    for name, scale in scales.items():
        seen = observed[f"minmax.fp8_e4m3.{name.removesuffix('.input_scale')}"]
        # Scales are of the dtype that the model was quantized in, which is the hardware's.
        rounding = max(1e-6, torch.finfo(scale.dtype).eps / 2)
        assert float(scale) == pytest.approx(float(seen.abs().max()) / 448, rel=rounding)
    scales = load_file(cache)
    assert len(scales) == 8
    for name, scale in scales.items():
        seen = observed[f"minmax.fp8_e4m3.{name.removesuffix('_scale')}"]
        assert float(scale) == pytest.approx(float(seen.abs().max()) / 448, rel=1e-6)


@pytest.mark.vllm
def test_vllm_takes_the_calibrated_scales_of_the_kv_cache(outputs: Path) -> None:
    (manifest,) = outputs.glob("demo/bf16+fp8_e4m3/verify-*/manifest.json")
    log = Path(json.loads(manifest.read_text())["results"]["server"]["log"]).read_text()
    assert "kv_cache_dtype': 'fp8_e4m3'" in log
    # What vLLM says when a checkpoint brings no scales.
    assert "Using KV cache scaling factor 1.0" not in log


@pytest.mark.vllm
def test_a_rerun_does_nothing_in_ten_seconds(outputs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("manifest.json")}
    started = os.times()
    answer = run(outputs, "stage=all", "variants=[bf16,fp8_static,bf16+fp8_e4m3]", *SMALL)
    assert answer.returncode == 0, answer.stderr
    ended = os.times()
    # Of a core's time: a busy machine takes longer.
    assert ended.children_user + ended.children_system - started.children_user - started.children_system < 10
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("manifest.json")} == before


@pytest.mark.vllm
def test_a_changed_setting_redoes_exactly_what_depends_on_it(outputs: Path) -> None:
    def due(*overrides: str) -> set[str]:
        answer = run(outputs, "stage=all", "variants=[bf16,fp8_static]", *SMALL, *overrides, "dry_run=true")
        steps = [line.split(" run: ")[0].strip() for line in answer.stderr.splitlines() if " run: " in line]
        named = (step.partition(": ") for step in steps)
        return {f"{stage} {name}".strip() for stage, _, names in named for name in names.split(", ")}

    assert due() == set()
    assert due("serve.port=4321", "serve.start_timeout_s=99") == set()
    timed = {f"bench {name}" for name, each in manifests(outputs, "bench").items() if each["status"] == "ok"}
    assert due("bench.num_prompts=9") == {"bench bf16", "bench fp8_static"} & timed
    assert due("eval.seed=5") == {"eval bf16", "eval fp8_static"}
    assert due("calibration.num_samples=100") == {
        "calibrate", "quantize fp8_static", "verify fp8_static", *({"bench fp8_static"} & timed), "eval fp8_static"
    }  # fmt: skip


@pytest.mark.vllm
def test_the_report_is_there_in_every_format_and_offline(outputs: Path) -> None:
    folder = outputs / "demo" / "report"
    assert {path.name for path in folder.iterdir()} >= {"index.html", "report.md", "report.csv", "report.json"}
    page = (folder / "index.html").read_text()
    is_emulated = any(each["status"] == "not_applicable" for each in manifests(outputs, "bench").values())
    assert (NO_SPEED in html.unescape(page)) == is_emulated
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.mark.vllm
def test_the_gate_passes_a_run_held_against_itself_and_fails_a_smaller_past(outputs: Path, tmp_path: Path) -> None:
    """Exit code 0 and 5, for CI; the past is this run's own report, in which one checkpoint was smaller."""
    stored = outputs / "demo" / "report" / "report.json"
    asked = ("stage=gate", "variants=[bf16,fp8_static,bf16+fp8_e4m3]", *SMALL)
    same = run(outputs, *asked, f"report.baseline={stored}")
    assert same.returncode == 0 and json.loads(same.stdout.splitlines()[-1])["regressions"] == []
    past = json.loads(stored.read_text())
    past["comparison"]["rows"][1]["size"]["bytes"] //= 2
    (tmp_path / "past.json").write_text(json.dumps(past))
    grown = run(outputs, *asked, f"report.baseline={tmp_path / 'past.json'}")
    assert grown.returncode == 5 and "fp8_static failed: worse than" in grown.stderr
    assert [r["column"] for r in json.loads(grown.stdout.splitlines()[-1])["regressions"]] == ["size"]


def test_a_failing_variant_does_not_stop_the_others(tmp_path: Path) -> None:
    # Two of the four need calibration, and this set has too few conversations.
    answer = run(
        tmp_path, "stage=quantize", "variants=[bf16,int8_dynamic,fp8_static,w4a16]", "calibration.num_samples=100000"
    )
    assert answer.returncode == 3
    assert "int8_dynamic, fp8_static failed: calibration.num_samples=100000" in answer.stderr
    assert set(manifests(tmp_path, "quantize")) == {"bf16", "w4a16"}


@pytest.mark.vllm
@pytest.mark.slow
def test_a_server_that_dies_shows_its_last_lines_and_log(tmp_path: Path) -> None:
    answer = run(tmp_path, "stage=verify", "quant=bf16", "serve.extra_args=[--no-such-flag]")
    assert answer.returncode == 4
    assert "no-such-flag" in answer.stderr
    assert "The whole log is" in answer.stderr


@pytest.mark.vllm
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGTERM, id="group terminated", marks=pytest.mark.slow),
    ],
)
def test_an_end_by_force_leaves_no_server_behind(tmp_path: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "stage=verify", "quant=bf16", f"outputs={tmp_path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT_ROOT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("logs/serve-*.log")) and time.monotonic() < deadline:
        time.sleep(0.2)
    descendants = psutil.Process(child.pid).children(recursive=True)
    assert descendants
    if number is signal.SIGKILL:
        os.kill(child.pid, number)
    else:
        os.killpg(child.pid, number)
    code = child.wait()
    _gone, alive = psutil.wait_procs(descendants, timeout=60)
    assert not alive, alive
    assert code == (-number if number is signal.SIGKILL else 128 + number)
    assert not list(tmp_path.glob("demo/bf16/verify-*/manifest.json")), "a run that was ended has not failed"


@pytest.mark.parametrize("seen", [pytest.param("the draft", marks=pytest.mark.slow), "weights in it"])
def test_a_kill_in_the_middle_of_an_engine_leaves_nothing_half_made(tmp_path: Path, seen: str) -> None:
    asked = [sys.executable, "-m", "pipeline", "stage=quantize", "quant=bnb_nf4", f"outputs={tmp_path}"]
    process = subprocess.Popen(asked, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = "demo/bnb_nf4/.quantize-*.tmp" + ("" if seen == "the draft" else "/checkpoint")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(wanted)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert not manifests(tmp_path, "quantize")
    assert not list(tmp_path.glob("demo/bnb_nf4/quantize-*"))
    again = run(tmp_path, "stage=quantize", "quant=bnb_nf4")
    assert again.returncode == 0, again.stderr
    assert manifests(tmp_path, "quantize")["bnb_nf4"]["status"] == "ok"
    assert not list(tmp_path.glob("demo/bnb_nf4/.*.tmp"))


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = run(tmp_path, "stage=verify", "quant=bf16", f"serve.port={port}")
    assert answer.returncode == 3
    assert f"serve.port={port} is in use" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["quant=fp9"], "fp9"),
        (["model=gpt5"], "gpt5"),
        (["stage=train"], "stage"),
        (["variants=[bf16,fp9]"], "fp9"),
        (["quant.group_size=7", "quant=awq"], "group size 7 does not divide"),
        (["model.path=/nowhere"], "no such folder"),
        (["calibration.dataset.path=/nowhere.json", "quant=fp8_static"], "calibration.dataset.path=/nowhere.json"),
        (["hardware.device=tpu"], "hardware.device='tpu'"),
        (["serve.python=/nowhere/python"], "serve.python=/nowhere/python"),
        (["quant=fp8"], "did you mean fp8_block, fp8_static or fp8_dynamic?"),
        (["--dry-run"], "Settings have no dashes: dry_run=true"),
        (["stage=quantize", "bench"], "Several values of stage are joined by commas: stage=quantize,bench"),
        (["variants=[bf16,", "awq]"], "Quote it: 'variants=[bf16, awq]'"),
        (["model.path=~/no such,folder"], "no such,folder: there is no such folder"),
        (["-m", "stage=quantize", "quant=bf16,fp9"], "quant=fp9: there is no such choice"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_by_name_and_without_traceback(tmp_path: Path, arguments: list[str], named: str) -> None:
    answer = run(tmp_path / "outputs", *arguments)
    assert answer.returncode in (ConfigError.exit_code, InputError.exit_code)
    assert named in answer.stderr
    assert not re.search("Traceback|HYDRA_FULL_ERROR", answer.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "python -m pipeline model=demo"),
        (["--version"], "quantization-pipeline "),
        (["--help", "quant"], "fp8_static"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_question_is_answered_on_standard_output(tmp_path: Path, arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pipeline", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert (answer.returncode, answer.stderr) == (0, "") and said in answer.stdout


def test_a_failed_job_of_a_sweep_has_its_exit_code_and_stops_no_other(tmp_path: Path) -> None:
    answer = run(tmp_path, "-m", "stage=quantize", "quant=bf16", "model.path=/nowhere,pipeline/demo/checkpoint")
    assert answer.returncode == InputError.exit_code
    assert "model.path=/nowhere: there is no such folder" in answer.stderr
    assert list(tmp_path.glob("checkpoint/bf16/quantize-*/manifest.json"))
    assert "Traceback" not in answer.stderr


def test_a_truncated_model_is_refused_before_work(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(CHECKPOINT, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    answer = run(tmp_path / "outputs", "quant=bf16", f"model.path={copy}")
    assert answer.returncode == 3
    assert "truncated" in answer.stderr


def test_a_multirun_sweep_makes_each_job(tmp_path: Path) -> None:
    answer = run(tmp_path, "-m", "stage=quantize", "quant=bf16,w4a16,fp8_dynamic")
    assert answer.returncode == 0, answer.stderr
    assert set(manifests(tmp_path, "quantize")) == {"bf16", "w4a16", "fp8_dynamic"}
