"""Against real vLLM: several protocols on one server, exact lengths, and what the server tells about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.settings import variants_of

from pipeline.runner import Runner
from pipeline.stages.bench.requests import Requests

pytestmark = pytest.mark.vllm
SMALL = (
    *("bench.num_prompts=8", "bench.repeats=2", "bench.warmup_prompts=4", "bench.warmup_rounds=2"),
    *("bench.input_len=24", "bench.output_len=12", "bench.prompts=random", "bench.endpoint=openai"),
    *("bench.slo.e2el_ms=60000", "bench.slo.probes=2", "bench.slo.prompts=6"),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and results of each protocol, of one run."""
    outputs = tmp_path_factory.mktemp("served")
    ladder = "+bench.ladder={concurrency: [1, 4], rates: [0.5], min_prompts: 4, prompts_per_slot: 1}"
    given = ["stage=bench", "quant=bf16", "protocols=[throughput,latency]", f"outputs={outputs}", *SMALL]
    climbing = [override for override in given if not override.startswith("protocols=")]
    run = Runner([*variants_of(*given), *variants_of(*climbing, ladder)], given)
    assert run.execute() == 0
    assert len(list(outputs.glob("logs/serve-*.log"))) == 1, "one server for all of them"
    found = {}
    for job, name in zip(run.jobs, ("throughput", "latency", "ladder"), strict=True):
        folder = job.artifact("bench").folder
        found[name] = (folder, json.loads((folder / "manifest.json").read_text())["results"])
    return found


def test_every_reply_has_exactly_the_tokens_asked_for(results: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for folder, result in results.values():
        assert result["failed"] == 0
        for path in folder.glob("loads/*/*.npz"):
            assert set(Requests.load(path).output_lens) == {12}, path


def test_figures_are_those_of_the_requests(results: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    folder, result = results["throughput"]
    for index in range(2):
        requests = Requests.load(folder / "loads" / "rate-inf" / f"repeat-{index}.npz")
        metrics = {name: metric["values"][index] for name, metric in result["metrics"].items()}
        assert metrics["median_ttft_ms"] == pytest.approx(1000 * np.median(requests.ttft))
        assert metrics["p99_e2el_ms"] == pytest.approx(1000 * np.percentile(requests.latency, 99))
        assert metrics["mean_tpot_ms"] == pytest.approx(1000 * np.mean(requests.tpot))
        assert metrics["p90_itl_ms"] == pytest.approx(1000 * np.percentile(requests.itl, 90))
    assert result["metrics"]["median_ttft_ms"]["errors"][0] > 0


def test_the_ladder_has_its_levels_rates_and_probes(results: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    _, result = results["ladder"]
    names = [load["name"] for load in result["loads"]]
    assert names[:3] == ["concurrency 1", "concurrency 4", "rate 0.5 of saturation"]
    assert result["headline"] == "concurrency 4"
    assert [load["asked"] for load in result["loads"][:3]] == [8, 8, 16]
    probes = result["goodput"]["probes"]
    assert probes and all(probe["met"] for probe in probes)
    assert result["goodput"]["met"] == probes[0]["rate"]
    assert result["metrics"]["request_goodput"]["values"] == pytest.approx(
        result["metrics"]["request_throughput"]["values"]
    )


def test_guards_are_read_from_the_server(results: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for _, result in results.values():
        first = {guard["name"]: guard for guard in reversed(result["guards"])}
        assert first["prefix cache"]["passed"] is True
        assert first["preemptions"]["passed"] is True
        assert first["requests"]["passed"] is True
        assert {"warm-up", "KV cache", "other processes", "bottleneck", "trend"} <= set(first)
        assert first["reply length"]["passed"] is True
        assert first["warm-up"]["text"].startswith("2 discarded rounds of 4 distinct prompts")
        counted = [each["counters"] for load in result["loads"] for each in load["conditions"]]
        assert sum(each["generation_tokens"] for each in counted) == sum(
            sum(load["output_tokens"]) for load in result["loads"]
        )


def test_the_processes_of_the_server_and_the_client_are_recorded(
    results: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    each = [
        conditions for _, result in results.values() for load in result["loads"] for conditions in load["conditions"]
    ]
    for conditions in each:
        busy = conditions["busy"]
        # The engine core is a process of its own: its thread worked, and no process used more than it can.
        assert 0 < busy["engine"] <= 1.05
        assert 0 <= busy["client"] <= 1.5 and 0 <= busy["api_server"] <= 1.5
        assert busy["gpu"] is None and conditions["gpu_load"] is None
        assert conditions["foreign_runnable"] is None or conditions["foreign_runnable"] >= 0
        assert conditions["counters"]["latency_s"] > conditions["counters"]["inference_s"] > 0
    assert any(conditions["running_mean"] for conditions in each)
    assert sum(conditions["busy"]["api_server"] for conditions in each) > 0


def test_memory_and_bandwidth_are_recorded(results: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    _, result = results["latency"]
    memory = result["memory"]
    assert memory["kv_cache_bytes"] == memory["kv_cache_tokens"] * memory["kv_bytes_per_token"] > 0
    assert memory["peak_bytes"] > memory["weights_bytes"] > 0
    assert result["memory_bandwidth"] > 1e8
    assert result["server"]["versions"]
