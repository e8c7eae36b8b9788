"""Rooflines, constraints and frontiers of a report, from real checkpoints' headers and a benchmark's own figures."""

import json
import shutil

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage
from pipeline.demo import CHECKPOINT
from pipeline.stages import report
from pipeline.stages.report.document import Report

NAMES = ("bf16", "fp8_static", "gptq")
BANDWIDTH, TPOT = 20e9, 2.0


def load(name, concurrency, tpot):
    return {
        "name": name,
        "request_rate": "inf",
        "max_concurrency": concurrency,
        "num_prompts": 50,
        "metrics": {"mean_tpot_ms": {"unit": "ms", "values": [tpot, tpot]}},
        "asked": 100,
        "completed": 100,
        "failed": 0,
        "input_tokens": [5000, 5000],
        "output_tokens": [2000, 2000],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three variants; the demo model's own files stand for each checkpoint."""
    made = Run(tmp_path_factory.mktemp("run"), {name: STUDY[name] for name in NAMES}, formats=("json",))
    for name in NAMES:
        checkpoint = made.job(name).artifact(Stage.QUANTIZE).folder / "checkpoint"
        for part in ("config.json", "model.safetensors"):
            shutil.copyfile(CHECKPOINT / part, checkpoint / part)
        path = made.job(name).artifact(Stage.BENCH).folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["results"] |= {
            "protocol": "ladder",
            "headline": "16 at once",
            "loads": [load("1 at once", 1, TPOT), load("16 at once", 16, 9.0)],
            "memory_bandwidth": BANDWIDTH,
        }
        path.write_text(json.dumps(manifest))
    return made


def reported(run, **settings):
    run.report = settings
    report.make(run.jobs, {})
    return Report.model_validate_json((run.outputs / "tiny" / "report" / "report.json").read_text())


def test_the_machine_that_measured_comes_first_with_the_share_of_its_floor(run, capsys):
    here, *there = reported(run, what_if=["L4", "H100 SXM"]).rooflines
    assert not here.predicted and here.device.bandwidth_gb_s == BANDWIDTH / 1e9
    assert (here.load.mean_input, here.load.mean_output, here.load.max_concurrency) == (100, 40, 16)
    bf16, emulated, gptq = here.rows
    # The whole file is read for a token (the embedding is tied), and the keys and values of its context.
    context = 100 + 40 // 2
    moved = bf16.footprint.step_bytes + context * bf16.footprint.kv_bytes_per_token
    assert bf16.decode_ms == pytest.approx(1000 * moved / BANDWIDTH)
    assert gptq.decode_share == pytest.approx(gptq.decode_ms / TPOT)
    assert emulated.decode_share.reason == "emulated here: no speed claim"
    assert any("memory alone" in note for note in here.notes)
    assert [(roofline.device.name, roofline.predicted) for roofline in there] == [("L4", True), ("H100 SXM", True)]
    assert there[0].rows[0].best.throughput_tok_s > 0 and there[0].rows[0].gain_percent == 0


def test_constraints_are_held_against_the_files_and_the_catalogue(run, capsys):
    found = reported(run, constraints={"memory_gib": 0.001, "hardware": "A100 80GB SXM"}).recommendation
    checks = {c.constraint: c for c in found.candidates[0].checks}
    assert checks["memory_gib"].status == "broken" and checks["hardware"].status == "met"
    assert (
        "(weights, the KV cache of 2,048 tokens and the activations of a step, in 0.9 of the GPU's memory)"
        in checks["memory_gib"].statement.text
    )
    assert found.recommended is None and found.answer.text.startswith("No variant is known to meet the constraints")


def test_a_memory_that_is_large_enough_is_met(run, capsys):
    found = reported(run, constraints={"memory_gib": 8}).recommendation
    assert {c.status for candidate in found.candidates for c in candidate.checks if c.constraint == "memory_gib"} == {
        "met"
    }


def test_the_study_and_frontiers_are_there_whatever_was_measured(run, capsys):
    found = reported(run)
    assert {r.table for r in found.reproductions} >= {"study_h100", "study_a100", "angelslim_qwen3_8b"}
    assert any("prints +26.7 %" in s.text for r in found.reproductions for s in r.statements)
    assert [f.cost.name for f in found.frontiers][-1] == "size" and found.roofline_check.errors
    assert "fp8_static" in found.frontiers[0].absent


def test_a_checkpoint_that_is_gone_or_broken_is_missing_with_its_reason(run, capsys):
    folder = run.job("gptq").artifact(Stage.QUANTIZE).folder / "checkpoint"
    whole = (folder / "model.safetensors").read_bytes()
    for content in (b"", b"\xff" * 64):
        (folder / "model.safetensors").write_bytes(content)
        row = reported(run).rooflines[0].rows[2]
        assert "cannot be read" in row.footprint.reason and row.decode_ms == row.footprint
    (folder / "model.safetensors").unlink()
    assert reported(run).rooflines[0].rows[2].footprint.reason == "the checkpoint is gone"
    (folder / "model.safetensors").write_bytes(whole)
