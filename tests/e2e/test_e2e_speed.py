"""What is promised about time, measured: server start-up, and emulated FP8 against BF16."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from pipeline.config import PROJECT_ROOT


@pytest.mark.slow
@pytest.mark.vllm
def test_emulated_fp8_keeps_seven_tenths_of_bf16_and_servers_start_in_thirty_seconds(tmp_path: Path) -> None:
    variants = ("bf16", "fp8_static", "fp8_dynamic")
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "stage=bench", f"variants=[{','.join(variants)}]"),
            *("bench.num_prompts=128", "bench.repeats=5", f"outputs={tmp_path}"),
        ],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
    )
    assert answer.returncode == 0, answer.stderr
    results = {
        variant: json.loads(next(tmp_path.glob(f"demo/{variant}/bench-*/manifest.json")).read_text())["results"]
        for variant in variants
    }
    speeds = {v: median(r["metrics"]["total_token_throughput"]["values"]) for v, r in results.items()}
    starts = {v: r["server"]["ready_s"] for v, r in results.items()}
    print({v: round(speed / speeds["bf16"], 2) for v, speed in speeds.items()}, starts)
    assert all(speeds[variant] >= 0.7 * speeds["bf16"] for variant in variants)
    assert all(start <= 30 for start in starts.values())
