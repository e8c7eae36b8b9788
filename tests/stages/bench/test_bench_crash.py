"""A server that dies while it is measured: noticed, tried once more, and then a failure with its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.settings import variants_of

from pipeline.config import PROJECT_ROOT
from pipeline.runner import Runner
from pipeline.stages.bench import processes

pytestmark = pytest.mark.vllm
SLOW = ("bench.num_prompts=40", "bench.max_concurrency=1", "bench.repeats=1", "bench.warmup_prompts=2")
COMMAND = ("stage=bench", "quant=bf16", "bench.warmup_rounds=1", *SLOW)


def measured_run(outputs: Path) -> Runner:
    given = [*COMMAND, f"outputs={outputs}"]
    return Runner(variants_of(*given), given)


def measuring(outputs: Path) -> bool:
    """Whether the client of the measured load is at work."""
    logs = outputs.glob("logs/clients/*/client-concurrency-1-0.log")
    return any("Starting main benchmark run" in log.read_text() for log in logs)


def alive(process: psutil.Process) -> bool:
    """Whether it still does something; one that nobody has asked how it ended does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def killer(run: Runner, outputs: Path, times: int) -> Iterator[list[list[psutil.Process]]]:
    """Kills the server in mid-benchmark, so many times; what it killed or left, each time."""
    killed: list[list[psutil.Process]] = []

    def work() -> None:
        for _ in range(times):
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline:
                server = run.serving.server
                if server is not None and measuring(outputs):
                    killed.append(processes.family(server.pid))
                    for log in outputs.glob("logs/clients/*/client-concurrency-1-0.log"):
                        log.rename(log.with_name(f"killed-{len(killed)}.log"))
                    os.kill(server.pid, signal.SIGKILL)
                    break
                time.sleep(0.05)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield killed
    thread.join(1)


def manifest(run: Runner) -> dict[str, Any]:
    return json.loads((run.jobs[0].artifact("bench").folder / "manifest.json").read_text())


@pytest.mark.slow
def test_a_crash_in_mid_benchmark_is_tried_once_more_on_a_fresh_server(tmp_path: Path) -> None:
    run = measured_run(tmp_path)
    with killer(run, tmp_path, times=1) as killed:
        code = run.execute()
    results = manifest(run)["results"]
    assert code == 0
    (failure,) = results["failures"]
    assert "vLLM exited with code -9" in failure and "The whole log is" in failure
    assert (results["asked"], results["completed"]) == (40, 40)
    # The engine of the server that was killed is gone too.
    assert len(killed[0]) > 1
    assert not psutil.wait_procs(killed[0], timeout=30)[1]


@pytest.mark.slow
def test_a_second_crash_is_a_failure_with_the_log(tmp_path: Path) -> None:
    run = measured_run(tmp_path)
    with killer(run, tmp_path, times=2):
        code = run.execute()
    record = manifest(run)
    assert code == 4
    assert record["status"] == "failed"
    assert "vLLM exited with code -9" in record["reason"]
    assert len(record["results"]["failures"]) == 2
    log = Path(record["reason"].rpartition("The whole log is ")[2].rstrip("."))
    assert log.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["Ctrl-C", "pipeline killed", "launcher killed"])
def test_nothing_is_left_behind_in_mid_benchmark(tmp_path: Path, who: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *COMMAND, "bench.num_prompts=200", f"outputs={tmp_path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT_ROOT,
        start_new_session=True,
        # A shell that runs the tests in the background has told all below it to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not measuring(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    family = processes.family(child.pid)
    launcher = next(process for process in family if "vllm_host.py" in " ".join(process.cmdline()))
    assert len(family) >= 5, "pipeline, launcher, server, engine, client"
    if who == "Ctrl-C":
        os.killpg(child.pid, signal.SIGINT)
    else:
        (psutil.Process(child.pid) if who == "pipeline killed" else launcher).kill()
    if who == "Ctrl-C":
        assert child.wait(60) in (130, -signal.SIGINT)
    # The launcher's end is a crash of the server: the pipeline tries once more and is ended by us.
    survivors = [process for process in family if process.pid != child.pid]
    deadline = time.monotonic() + 60
    while any(map(alive, survivors)) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.kill()
    child.wait()
    assert not any(map(alive, survivors))
    assert not list(tmp_path.glob("demo/bf16/bench-*")), "nothing that looks finished"
