"""CPU time, memory and runnable tasks, from what the kernel of a made-up machine reports."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.stages.bench import processes


class Process:
    """A process as psutil shows it; one that has exited raises."""

    def __init__(self, pid: int, times: tuple[float, ...] = (), title: str = "", rss: int | None = None) -> None:
        self.pid, self.times, self.title, self.rss = pid, times, title, rss

    def cpu_times(self) -> Any:
        if not self.times:
            raise psutil.NoSuchProcess(self.pid)
        names = ("user", "system", "children_user", "children_system")
        return SimpleNamespace(**dict(zip(names, self.times, strict=True)))

    def cmdline(self) -> list[str]:
        if not self.title:
            raise psutil.ZombieProcess(self.pid)
        return self.title.split()

    def memory_info(self) -> Any:
        if self.rss is None:
            raise psutil.NoSuchProcess(self.pid)
        return SimpleNamespace(rss=self.rss)


def files(monkeypatch: pytest.MonkeyPatch, content: dict[str, str]) -> None:
    """Replaces the files that the module reads."""

    def read(name: object) -> str:
        if str(name) not in content:
            raise FileNotFoundError(name)
        return content[str(name)]

    monkeypatch.setattr(processes, "open", lambda name: io.StringIO(read(name)), raising=False)
    monkeypatch.setattr(processes, "Path", lambda name: SimpleNamespace(read_text=lambda: read(name)))


def test_cpu_time_is_that_of_processes_and_of_their_children_that_ended() -> None:
    family: list[Any] = [Process(1, (1.0, 2.0, 4.0, 8.0)), Process(2), Process(3, (0.5, 0.25, 0.0, 0.0))]
    assert processes.cpu_s(family) == 15.75
    assert processes.cpu_s([]) == 0


def test_memory_is_the_proportional_share_or_what_is_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    family = [Process(1), Process(2, rss=5000), Process(3), Process(4, rss=7), Process(5)]
    monkeypatch.setattr(processes, "family", lambda pid: family if pid == 1 else [])
    shares = "Rss:    999 kB\nPss:    100 kB\nPss_Dirty:    50 kB\n"
    content = {"/proc/1/smaps_rollup": shares, "/proc/4/smaps_rollup": "none\n", "/proc/5/smaps_rollup": "Pss: 1 kB\n"}
    files(monkeypatch, content)
    assert processes.memory_of(1) == 100 * 1024 + 5000 + 7 + 1024
    assert processes.memory_of(2) == 0


def test_a_process_that_has_exited_has_no_family_and_no_time() -> None:
    assert processes.family(os.getpid())[0].pid == os.getpid()
    gone = 2**22 + 1
    assert processes.family(gone) == [] and processes.roles(gone) == {}
    assert processes.used_s(gone) is None and processes.used_s(gone, main_thread=True) is None
    assert processes._runnable(gone) == 0


@pytest.mark.parametrize(
    ("may", "expected"),
    [
        ({1, 3}, [20.0, 40.0]),
        ({0}, [10.0]),
        # A container that has four cores of its own and numbers the allowed ones as the host does.
        ({2, 64}, [10.0, 20.0, 30.0, 40.0]),
        ({0, 4}, [10.0, 20.0, 30.0, 40.0]),
    ],
)
def test_busy_time_is_that_of_the_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, may: set[int], expected: list[float]
) -> None:
    cores = [SimpleNamespace(user=10.0 * number, idle=5.0, iowait=3.0, guest=1.0) for number in (1, 2, 3, 4)]
    monkeypatch.setattr(processes.psutil, "cpu_times", lambda percpu: cores if percpu else None)
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: may)
    assert processes.busy_s() == expected


@pytest.mark.parametrize(("allowed", "cores", "part"), [(2, 4, True), (4, 4, False), (1, None, False), (2, 1, False)])
def test_a_part_of_the_cores_is_fewer_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, allowed: int, cores: int | None, part: bool
) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(allowed)))
    monkeypatch.setattr(processes.os, "cpu_count", lambda: cores)
    assert processes.has_part_of_the_cores() is part


def test_roles_are_told_by_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    family = [
        *(Process(1, title="python -m vllm"), Process(2, title="VLLM::APIServer 1"), Process(3, title="ApiServer_2")),
        *(Process(4), Process(5, title="VLLM::EngineCore"), Process(6, title="VLLM::Worker_TP0")),
        Process(7, title="python -c resource_tracker"),
    ]
    monkeypatch.setattr(processes, "family", lambda pid: family)
    server: dict[int, str] = dict.fromkeys((1, 2, 3), "api_server")
    assert processes.roles(1) == server | {5: "engine", 6: "engine"}


# Fields 14 and 15 of proc_pid_stat(5), user and system time in ticks; the name may hold anything.
STAT = "17 (a) b) S 1 17 17 0 -1 4194560 11 22 33 44 {user} {system} 55 66 20 0 1 0 77 88 99"


def test_time_is_counted_in_ticks_of_the_process_or_of_its_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "sysconf", {"SC_CLK_TCK": 100}.get)
    content = {
        "/proc/17/stat": STAT.format(user=700, system=50),
        "/proc/17/task/17/stat": STAT.format(user=25, system=5),
    }
    files(monkeypatch, content)
    assert processes.used_s(17) == 7.5
    assert processes.used_s(17, main_thread=True) == 0.3


def test_runnable_tasks_are_those_in_state_r(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"/task/1": "1 (x) R 0", "/task/2": "2 (y R) S 0", "/task/3": "3 (R) R 0", "/task/4": "4 (z) D 0"}
    monkeypatch.setattr(processes.os, "scandir", lambda path: [SimpleNamespace(path=name) for name in states])
    files(monkeypatch, {f"{name}/stat": text for name, text in states.items()})
    assert processes._runnable(9) == 2
    # One that ends while they are counted ends the count.
    files(monkeypatch, {"/task/1/stat": states["/task/1"]})
    assert processes._runnable(9) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.50 0.40 0.30 7/812 1234\n", 4.0),
        ("0.50 0.40 0.30 3/812 1234\n", 0.0),
        ("0.50 0.40 0.30 2/812 1234\n", 0.0),
        ("0.50 0.40 0.30 0/812 1234\n", None),
        ("0.50 0.40 0.30 many/812 1234\n", None),
        ("0.50 0.40\n", None),
        (None, None),
    ],
)
def test_foreign_tasks_are_the_runnable_ones_that_are_not_ours(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: float | None
) -> None:
    files(monkeypatch, {} if text is None else {"/proc/loadavg": text})
    monkeypatch.setattr(processes, "has_part_of_the_cores", lambda: False)
    monkeypatch.setattr(processes, "_runnable", {1: 2, 2: 1}.get)
    assert processes.foreign_runnable([1, 2]) == expected
    monkeypatch.setattr(processes, "has_part_of_the_cores", lambda: True)
    assert processes.foreign_runnable([1, 2]) is None


def test_a_share_is_of_the_time_between_two_moments() -> None:
    usage = processes.Usage([10.0, 14.0, 20.0], [3.0, 5.0, 5.0])
    assert usage.share(10.0, 14.0) == 0.5
    assert usage.share(11.0, 13.0) == 0.5
    assert usage.share(12.0, 17.0) == pytest.approx(0.2)
    # Nothing is known before the first sample and after the last.
    assert usage.share(2.0, 12.0) == pytest.approx(0.1)
    assert usage.share(25.0, 26.0) == 0


def test_a_real_process_uses_time_and_memory() -> None:
    before = processes.used_s(os.getpid())
    assert before is not None and before > 0
    main = processes.used_s(os.getpid(), main_thread=True)
    assert main is not None and 0 < main <= before + 1
    assert processes._runnable(os.getpid()) >= 1
    if Path("/proc/self/smaps_rollup").is_file():
        assert processes.memory_of(os.getpid()) > 2**20
