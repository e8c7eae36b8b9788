"""What is promised about servers, measured: how soon they start, and that two processes serve what one does."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT


@pytest.mark.slow
@pytest.mark.vllm
def test_servers_start_in_thirty_seconds(tmp_path: Path) -> None:
    variants = ("bf16", "fp8_static", "fp8_dynamic")
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "stage=verify"),
            f"variants=[{','.join(variants)}]",
            f"outputs={tmp_path}",
        ],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
    )
    assert answer.returncode == 0, answer.stderr
    results = {
        variant: json.loads(next(tmp_path.glob(f"demo/{variant}/verify-*/manifest.json")).read_text())["results"]
        for variant in variants
    }
    starts = {variant: result["server"]["ready_s"] for variant, result in results.items()}
    print(starts)
    assert all(start <= 30 for start in starts.values())


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("gpus", ["tp2", "dp2"])
def test_two_processes_that_share_a_cpu_serve_what_one_does(gpus: str, tmp_path: Path) -> None:
    """On a CPU a process with cores of its own stands for each GPU: the gate compares its answers with one's."""
    few = ("bench.num_prompts=16", "bench.repeats=2", "report.formats=[csv]", f"outputs={tmp_path}")
    answer = subprocess.run(
        [sys.executable, "-m", "pipeline", "stage=[bench,report]", f"variants=[bf16,bf16@{gpus}]", *few],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
    )
    assert answer.returncode == 0, answer.stderr
    with (tmp_path / "demo" / "report" / "report.csv").open() as table:
        rows = {row["variant"]: row for row in csv.DictReader(table)}
    one, two = rows["bf16"], rows[f"bf16@{gpus}"]
    assert (one["gpus"], two["gpus"]) == ("1", "2")
    assert float(two["throughput_per_gpu_tok_s"]) == pytest.approx(float(two["throughput_tok_s"]) / 2, rel=1e-4)
    # Each process caches its part of the heads, or as many tokens as one does.
    cached = float(two["kv_cache_tokens"]) / float(one["kv_cache_tokens"])
    assert cached == pytest.approx(2 if gpus == "tp2" else 1, rel=0.01)
    checkpoints = list(tmp_path.glob("demo/*/quantize-*/manifest.json"))
    assert len(checkpoints) == 1, "both serve one checkpoint"
