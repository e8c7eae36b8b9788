"""Servers that the user runs, good and bad, under vLLM's real load generator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.openai_server import Behaviour, OpenAIServer
from support.settings import variants_of

from pipeline.errors import InputError
from pipeline.runner import Runner
from pipeline.serve import external

pytestmark = pytest.mark.vllm
SMALL = ("bench.num_prompts=8", "bench.repeats=2", "bench.warmup_prompts=4", "bench.warmup_rounds=1")


@pytest.fixture
def serving() -> Iterator[Callable[..., OpenAIServer]]:
    started: list[OpenAIServer] = []

    def start(behaviour: Behaviour = "well", **how: Any) -> OpenAIServer:
        started.append(OpenAIServer(behaviour, **how))
        return started[-1]

    yield start
    for server in started:
        server.close()


def measure(outputs: Path, server: OpenAIServer, *overrides: str) -> tuple[int, dict[str, Any]]:
    """Runs the stage in this process; the exit code of the command, and the manifest."""
    given = ["stage=bench", "quant=bf16", f"serve.url={server.url}", f"outputs={outputs}", *SMALL, *overrides]
    run = Runner(variants_of(*given), given)
    code = run.execute()
    return code, json.loads((run.jobs[0].artifact("bench").folder / "manifest.json").read_text())


def test_any_openai_server_is_measured_and_named(serving: Callable[..., OpenAIServer], tmp_path: Path) -> None:
    server = serving()
    code, manifest = measure(tmp_path, server, "bench.slo.ttft_ms=60000", "bench.slo.probes=0")
    results = manifest["results"]
    assert code == 0
    assert manifest["payload"]["serve"] == {
        "url": server.url,
        "model": "theirs",
        "version": "not told",
        "context": None,
    }
    assert "quantize" not in manifest["payload"]
    assert (results["asked"], results["completed"], results["failed"]) == (16, 16, 0)
    assert {request["model"] for request in server.requests} == {"theirs"}
    assert {request["temperature"] for request in server.requests} == {0.0}
    assert len(server.requests) == 4 + 2 * 8
    goodput, throughput = (results["metrics"][name]["values"] for name in ("request_goodput", "request_throughput"))
    assert goodput == pytest.approx(throughput)
    assert results["memory"]["weights_bytes"] is None
    seen = {guard["name"]: guard["passed"] for guard in results["guards"]}
    assert seen["requests"] is True
    assert seen["prefix cache"] is None
    # Nothing of theirs was stopped.
    assert external.describe.__wrapped__(server.url).model == "theirs"
    files = {path.name for path in tmp_path.glob("demo/bf16/bench-*/loads/*/*")}
    assert files == {f"repeat-{i}.{kind}" for i in (0, 1) for kind in ("json", "npz")}


def test_fixed_lengths_ask_for_as_many_tokens_as_they_allow(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    server = serving()
    code, manifest = measure(tmp_path, server, "bench=throughput", "bench.input_len=12", "bench.output_len=5", *SMALL)
    assert code == 0
    assert {(request["max_tokens"], request["min_tokens"]) for request in server.requests} == {(5, 5)}
    assert manifest["results"]["output_tokens"] == [40, 40]
    assert manifest["payload"]["dataset"] is None
    # Runs of neighbouring token numbers from a random one on, of which a small vocabulary has few.
    prompts = [request["prompt"] for request in server.requests]
    assert len(set(prompts)) > len(prompts) / 2


def test_prompts_without_answers_are_sent_with_a_fixed_length(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    rows = [{"conversations": [{"from": "human", "value": f"What is the sum of {i} and {i}?"}]} for i in range(8)]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    server = serving()
    code, _ = measure(tmp_path, server, f"bench.dataset.path={path}", "bench.output_len=3")
    assert code == 0
    assert {request["min_tokens"] for request in server.requests} == {3}


def test_a_warm_prefix_cache_and_preemptions_mark_the_result(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    names = ("prefix_cache_queries", "prefix_cache_hits", "num_preemptions")
    server = serving(metrics="\n".join(f'vllm:{name}_total{{engine="0"}} 5' for name in names) + "\n")
    grown = iter(range(5, 1000))

    class Growing(str):
        def encode(self, *_: Any) -> bytes:
            value = next(grown)
            return str(self).replace("} 5", f"}} {value}").encode()

    server.metrics = Growing(server.metrics)
    code, manifest = measure(tmp_path, server)
    assert code == 0
    seen = {guard["name"]: guard for guard in manifest["results"]["guards"]}
    assert seen["prefix cache"]["passed"] is False
    assert seen["preemptions"]["passed"] is False


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("500", "None of 4 requests succeeded: Internal Server Error"),
        ("hang", "did not answer every request within 6 s"),
        ("close", "None of 4 requests succeeded"),
    ],
)
def test_a_server_that_never_answers_is_a_failure_with_its_reason(
    serving: Callable[..., OpenAIServer], tmp_path: Path, behaviour: Behaviour, said: str
) -> None:
    limit = 6 if behaviour == "hang" else 120
    code, manifest = measure(tmp_path, serving(behaviour), f"bench.timeout_s={limit}")
    assert code == 4
    assert manifest["status"] == "failed"
    assert said in manifest["reason"]


def test_a_server_that_closes_some_streams_is_measured_and_marked(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    code, manifest = measure(tmp_path, serving("close sometimes"))
    results = manifest["results"]
    assert code == 0
    assert (results["completed"], results["failed"]) == (12, 4)
    (guard,) = (guard for guard in results["guards"] if guard["name"] == "requests")
    assert guard == {**guard, "passed": False, "text": "4 of 16 requests failed"}


def test_a_context_that_is_too_short_is_refused_before_anything_is_sent(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    server = serving(context=16)
    lengths = ("bench=throughput", "bench.input_len=12", "bench.output_len=5", *SMALL)
    code, manifest = measure(tmp_path, server, *lengths)
    assert code != 0
    assert "bench.input_len=12 and bench.output_len=5 do not fit into a context of 16 tokens" in manifest["reason"]
    assert server.requests == []


def test_nothing_at_the_address_is_refused_before_work(settings: Any, tmp_path: Path) -> None:
    given = settings("stage=bench", "quant=bf16", "serve.url=http://127.0.0.1:9", f"outputs={tmp_path}")
    with pytest.raises(InputError, match="serve.url=http://127.0.0.1:9"):
        Runner([given], [])
