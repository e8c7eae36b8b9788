"""Servers that the user runs, good and bad, under vLLM's real load generator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.openai_server import Behaviour, OpenAIServer
from support.settings import variants_of

from pipeline.config import PROJECT_ROOT
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
    server.metrics = "process_start_time_seconds 1.7e+09\n"
    code, manifest = measure(tmp_path, server, "bench.slo.ttft_ms=60000", "bench.slo.probes=0")
    results = manifest["results"]
    assert code == 0
    assert manifest["payload"]["serve"] == {
        "url": server.url,
        "model": "theirs",
        "version": "not told",
        "context": None,
        "instance": "started 2023-11-14T22:13:20.000+00:00",
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
    assert external.ask(server.url).model == "theirs"
    files = {path.name for path in tmp_path.glob("demo/bf16/bench-*/loads/*/*")}
    assert files == {f"repeat-{i}.{kind}" for i in (0, 1) for kind in ("json", "npz")}


def test_fixed_lengths_ask_for_as_many_tokens_as_they_allow(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    server = serving()
    code, manifest = measure(tmp_path, server, "bench=throughput", "bench.input_len=12", "bench.output_len=5", *SMALL)
    assert code == 0
    lengths = ("max_tokens", "min_tokens", "ignore_eos")
    assert {tuple(request[name] for name in lengths) for request in server.requests} == {(5, 5, True)}
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


FIXED = ("bench=throughput", "bench.input_len=12", "bench.output_len=6", *SMALL)


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        ("500", 4, "None of 4 requests succeeded: Internal Server Error"),
        ("500 in silence", 4, "None of 4 requests succeeded: no reason given"),
        ("429", 4, "None of 4 requests succeeded: Too Many Requests"),
        ("hang", 4, "did not answer every request within 6 s"),
        ("close", 4, "None of 4 requests succeeded"),
        ("garbage", 4, "None of 4 requests succeeded"),
        ("dies", 4, "None of 8 requests succeeded"),
        ("close sometimes", 0, {"requests": "4 of 16 requests failed"}),
        ("429 sometimes", 0, {"requests": "4 of 16 requests failed"}),
        ("short", 0, {"reply length": "24 tokens generated of 48 requested; 8 of 8 replies are not exact"}),
        ("restarts", 0, {"same server": "instance started 2023-11-14T22:13:20.000+00:00 -> started 2027-01-15"}),
    ],
)
def test_each_load_ends_measured_marked_or_failed_with_the_reason(
    serving: Callable[..., OpenAIServer],
    tmp_path: Path,
    behaviour: Behaviour,
    code: int,
    said: str | dict[str, str],
) -> None:
    server = serving(behaviour, metrics="process_start_time_seconds 1.7e+09\n")
    more = (*FIXED, "bench.repeats=1") if behaviour == "short" else ()
    found, manifest = measure(tmp_path, server, f"bench.timeout_s={6 if behaviour == 'hang' else 120}", *more)
    assert found == code
    if isinstance(said, str):
        assert manifest["status"] == "failed"
        assert said in manifest["reason"] and "\x1b" not in manifest["reason"]
        return
    failed = {guard["name"]: guard["text"] for guard in manifest["results"]["guards"] if guard["passed"] is False}
    for name, text in said.items():
        assert failed[name].startswith(text)


def test_a_server_that_was_restarted_is_measured_anew(serving: Callable[..., OpenAIServer], tmp_path: Path) -> None:
    server = serving(metrics="process_start_time_seconds 1.7e+09\n")

    def bench() -> int:
        """The requests that another command sends."""
        external._told_once.cache_clear()
        before = len(server.requests)
        assert measure(tmp_path, server)[0] == 0
        return len(server.requests) - before

    assert bench() == 20 and bench() == 0
    server.metrics = "process_start_time_seconds 1.8e+09\n"
    assert bench() == 20
    # One that does not tell may be another one each time.
    server.metrics = ""
    assert bench() == 20 and bench() == 20


SECRETS = {
    "HF_TOKEN": "hf_planted_token",
    "OPENAI_API_KEY": "sk-planted-of-openai",
    "VLLM_API_KEY": "planted-of-vllm",
    "MLFLOW_TRACKING_PASSWORD": "planted-of-mlflow",
    "GATEWAY": "planted-of-the-gateway",
}


def test_no_secret_is_in_anything_that_a_benchmark_of_a_gateway_leaves(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    server = serving(key=SECRETS["GATEWAY"], path="/team/qwen", models=("other", "mine"))
    outputs = tmp_path / "outputs"
    command = [
        *("stage=bench,report", "quant=bf16", f"serve.url={server.url}/v1/", "serve.model=mine", *SMALL),
        *("serve.api_key_env=GATEWAY", f"outputs={outputs}"),
    ]
    argv, stop = set[str](), threading.Event()

    def look() -> None:
        """What other users of the machine see."""
        while not stop.wait(0.2):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    argv.add(" ".join(process.cmdline()))

    watch = threading.Thread(target=look)
    watch.start()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command],
        cwd=PROJECT_ROOT,
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
    )
    stop.set()
    watch.join()
    assert done.returncode == 0, done.stderr
    # Only the gateway's key went there; vLLM's client looks for metrics without it.
    assert server.keys == {f"Bearer {SECRETS['GATEWAY']}", None}
    assert {request["model"] for request in server.requests} == {"mine"}
    files = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    kinds = {path.name for path in files}
    assert {"manifest.json", "overrides.yaml", "config.yaml", "index.html", "report.json", "launcher.log"} <= kinds
    assert any(path.name.startswith("client-") for path in files)
    files |= {Path("stdout"): done.stdout.encode(), Path("stderr"): done.stderr.encode()}
    files[Path("command lines")] = "\n".join(argv).encode()
    leaks = [(path.name, name) for path, text in files.items() for name, key in SECRETS.items() if key.encode() in text]
    assert not leaks


@pytest.mark.slow
def test_nothing_temporary_is_left_by_a_benchmark_whether_it_ends_or_is_killed(
    serving: Callable[..., OpenAIServer], tmp_path: Path
) -> None:
    for behaviour, name in (("well", "ends"), ("hang", "killed")):
        temporary, outputs = tmp_path / name, tmp_path / f"outputs-{name}"
        temporary.mkdir()
        server = serving(behaviour)
        words = [*("stage=bench", "quant=bf16", f"serve.url={server.url}", *SMALL), f"outputs={outputs}"]
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=PROJECT_ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stderr=subprocess.DEVNULL,
        )
        try:
            if behaviour == "well":
                assert child.wait(200) == 0
            else:
                wait_for(lambda server=server: bool(server.requests))
                assert list(temporary.glob("vllm-*"))
                child.kill()
                server.released.set()
            # The launcher outlives a pipeline that is killed by a moment; torch has a cache there for all processes.
            wait_for(lambda temporary=temporary: {each.name[:5] for each in temporary.iterdir()} <= {"torch"}, 30)
        finally:
            child.kill()
            child.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_refused_secret_is_in_nothing_that_the_command_leaves(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "stage=bench", "quant=bf16", f"outputs={tmp_path}"),
            "serve.url=http://alice:planted@127.0.0.1:9",
        ],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "planted" not in done.stdout + done.stderr and "serve.api_key_env" in done.stderr
    assert not any(b"planted" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


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


def test_a_server_is_one_variant_until_it_is_restarted(serving: Callable[..., OpenAIServer], tmp_path: Path) -> None:
    server = serving(metrics="process_start_time_seconds 1.7e+09\n")

    def asked(quant: str) -> Runner:
        external._told_once.cache_clear()
        given = ["stage=bench", f"quant={quant}", f"serve.url={server.url}", f"outputs={tmp_path}", *SMALL]
        return Runner(variants_of(*given), given)

    run = asked("bf16")
    with run.workspace.making(run.jobs[0].artifact("bench"), {}):
        pass
    assert asked("bf16")
    with pytest.raises(InputError, match="started 2023-11-14.* was measured as bf16, and not as fp8_dynamic"):
        asked("fp8_dynamic")
    server.metrics = "process_start_time_seconds 1.8e+09\n"
    assert asked("fp8_dynamic")
    # Of one that does not tell its start nothing is known.
    server.metrics = ""
    assert asked("bf16") and asked("fp8_dynamic")
