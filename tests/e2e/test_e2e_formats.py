"""Every format of `experiment=formats` by the command: served, emulated or `n/a` as the matrix of capabilities says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.settings import variants_of

from pipeline.config import PROJECT_ROOT
from pipeline.hardware import rules
from pipeline.hardware.installed import packages
from pipeline.hardware.probe import probe
from pipeline.serve import server_log, support

ASKED = ["experiment=formats", "stage=bench"]
SMALL = [
    *("calibration.num_samples=8", "calibration.max_seq_length=256"),
    *("bench.num_prompts=8", "bench.repeats=1", "bench.warmup_prompts=2", "bench.warmup_rounds=1"),
]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_format_is_what_the_matrix_says(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    command = [sys.executable, "-m", "pipeline", *ASKED, *SMALL, f"outputs={tmp_path}"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=3500)
    assert answer.returncode == 0, answer.stderr[-6000:]
    here, vllm = probe("cpu"), rules.Vllm.of(packages(None))
    for settings in variants_of(*ASKED):
        said, name = support.of_settings(settings, here, vllm), str(settings.variant)
        if said.support == "no":
            (record,) = [json.loads(path.read_text()) for path in tmp_path.glob(f"demo/{name}/verify-*/manifest.json")]
            assert (record["status"], record["reason"]) == ("not_applicable", said.reason)
            continue
        gate, benchmark = (
            json.loads(next(tmp_path.glob(f"demo/{name}/{stage}-*/manifest.json")).read_text())
            for stage in ("verify", "bench")
        )
        assert (benchmark["status"], benchmark["reason"]) == (
            ("ok", None) if said.support == "native" else ("not_applicable", rules.NO_SPEED)
        )
        server = gate["results"]["server"]
        assert bool(server["emulated"]) == (said.support == "emulated"), name
        # The KV cache alone leaves BF16 layers, which are no kernel's.
        assert bool(server["kernels"]) == (settings.quant.scheme is not None), name
        assert server["kernels"] == server_log.kernels(server_log.read(Path(server["log"])))
        assert server["kv_cache_tokens"] > 0
