"""Torch's threads in this process sleep while they wait; a server's do as its vLLM has them do."""

import os
import subprocess
import sys

import pytest

# Threads that spin use time of their cores between parallel loops, while the main thread does something else.
SCRIPT = """
import os, time
from pipeline import waiting_threads
if {settles}:
    waiting_threads.settle()
import torch
torch.set_num_threads(2)
a = torch.randn(100_000)
a.exp()
used, own = time.process_time(), time.thread_time()
for _ in range(300):
    a.exp_()
    a.zero_()
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
# Of the threads beside the main one: their share of the loops, and what they spin.
print(time.process_time() - used - (time.thread_time() - own), "OMP_WAIT_POLICY" in os.environ)
"""


def others(*, settles: bool) -> tuple[float, bool]:
    command = [sys.executable, "-c", SCRIPT.format(settles=settles)]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=given)
    seconds, inherited = answer.stdout.split()
    return float(seconds), inherited == "True"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread")
def test_threads_of_torch_sleep_and_those_of_other_processes_are_left_alone() -> None:
    asleep, is_inherited = others(settles=True)
    assert asleep < others(settles=False)[0] / 2
    assert not is_inherited


def test_the_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import waiting_threads

    for name in waiting_threads.GIVEN:
        monkeypatch.delenv(name, raising=False)
    assert waiting_threads.environment() == {"OMP_WAIT_POLICY": "PASSIVE"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert waiting_threads.environment() == {}
