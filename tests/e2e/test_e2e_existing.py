"""A checkpoint that others quantized, by the command: served, measured and compared as any other variant."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT
from pipeline.hardware.rules import NO_SPEED

SMALL = [
    *("eval.limit=4", "eval.divergence.num_sequences=2"),
    *("bench.num_prompts=8", "bench.repeats=1", "bench.warmup_prompts=2", "bench.warmup_rounds=1"),
]


def pipeline(*arguments: str) -> None:
    command = [sys.executable, "-m", "pipeline", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=1200)
    assert answer.returncode == 0, answer.stderr[-6000:]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_folder_is_served_measured_and_compared(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    made, outputs = tmp_path / "made", tmp_path / "outputs"
    pipeline("stage=quantize", "quant=w4a16", f"outputs={made}")
    (checkpoint,) = made.glob("demo/w4a16/quantize-*/checkpoint")
    theirs = Path(shutil.copytree(checkpoint, tmp_path / "Demo-W4A16"))
    shutil.rmtree(made)
    variants = f"variants=[bf16,'folder:{theirs}']"
    pipeline("stage=all", variants, f"outputs={outputs}", "report.formats=[json]", *SMALL)

    document = json.loads((outputs / "demo" / "report" / "report.json").read_text())
    _, row = document["comparison"]["rows"]
    assert row["label"] == "Demo-W4A16 (W4A16)"
    assert set(row["tasks"]) == {"C-Eval", "MMLU", "GSM8K", "HumanEval"}
    speed = row["speed"]["total_token_throughput"]
    # A processor without AVX-512 emulates W4A16.
    assert speed == {"reason": NO_SPEED} or all(value > 0 for value in speed["measured"]["values"])
    (card,) = [card for card in document["cards"] if card["label"] == row["label"]]
    assert card["kernels"], "its kernel is read from vLLM's log"
    assert [check["name"] for check in card["checks"] if check["ok"] is False] == []
    assert {check["name"] for check in card["checks"] if check["ok"]} >= {"weights", "canary log-probabilities"}
    pipeline("stage=all", variants, f"outputs={outputs}", "report.formats=[json]", *SMALL, "dry_run=true")
