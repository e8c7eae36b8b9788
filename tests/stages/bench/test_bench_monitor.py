"""What a watch makes of a load, on a machine and a server that report made-up figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.serve import counters
from pipeline.stages.bench import gpu_monitor, monitor
from pipeline.stages.bench.requests import Requests

URL = "http://127.0.0.1:9"
INTERVAL_S = monitor.CPU_INTERVAL_S
# SM clock and its maximum, temperature, power and its limit, utilization, memory in use and in total, reasons.
SAMPLE = "{mhz}, 1980, 62, 600, 700.00, {busy}, {mib}, 143771, 0x0000000000000004"


class Machine:
    """Four cores, a server of three processes and a client; all figures are set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.load, self.ours, self.cores = 100.0, 0.0, 5.0, [1.0, 2.0, 3.0, 4.0]
        self.page: dict[str, float] | None = {"preemptions": 1.0, "queued": 2.0}
        self.tasks: float | None = None
        self.used: dict[int, float] = {}
        self.memory, self.own = 0, {1, 11, 12}
        self.asked: list[tuple[Any, ...]] = []
        self.main_threads: dict[int, bool] = {}
        monkeypatch.setattr(monitor, "CPU_INTERVAL_S", 600.0)
        monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(monitor.os, "getloadavg", lambda: (self.load, 77.0, 78.0))
        monkeypatch.setattr(monitor.os, "getpid", lambda: 1)
        monkeypatch.setattr(monitor, "cpu_s", lambda family: self.ours)
        monkeypatch.setattr(monitor, "busy_s", lambda: list(self.cores))
        monkeypatch.setattr(monitor, "family", lambda pid: [SimpleNamespace(pid=own) for own in self.own])
        roles = {11: "api_server", 12: "engine", 13: "api_server"}
        monkeypatch.setattr(monitor, "roles", lambda pid: dict(roles) if pid == 11 else {})
        monkeypatch.setattr(monitor, "foreign_runnable", self._foreign)
        monkeypatch.setattr(monitor, "memory_of", lambda pid: self.memory if pid == 11 else -1)
        monkeypatch.setattr(monitor, "used_s", self._used)
        monkeypatch.setattr(monitor.counters, "read", self._read)

    def _foreign(self, own: set[int]) -> float | None:
        assert own >= {1}
        self.foreign_of = own
        return self.tasks

    def _used(self, pid: int, *, main_thread: bool) -> float | None:
        self.main_threads[pid] = main_thread
        return self.used.get(pid)

    def _read(self, *given: Any) -> counters.Reading | None:
        self.asked.append(given)
        return None if self.page is None else counters.Reading(dict(self.page))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def answered(*times: tuple[float, float]) -> Requests:
    """Requests that started and ended at these times."""
    number, empty = len(times), np.zeros(len(times), np.int64)
    starts, ends = np.array(times).T
    return Requests(empty, empty, np.ones(number, np.bool_), empty * 0.1, ends - starts, starts, np.empty(0), empty)


def test_everything_is_recorded_between_the_first_request_and_the_last(machine: Machine) -> None:
    machine.load, machine.used = 1.234, {11: 50.0, 12: 60.0, 13: 70.0, 21: 0.0}
    with monitor.Watch(URL, 11, (), lambda: 21, "KEY") as watch:
        # Before the first request: the client reads its prompts.
        machine.page |= {"running": 90.0, "waiting": 95.0, "kv_cache_usage": 0.9}
        machine.tasks, machine.memory = 40.0, 10**9
        watch._look()
        for second, running, waiting, usage, tasks in ((104.0, 5.0, 0.0, 0.5, 2.0), (108.0, 8.0, 1.0, 0.7, 3.0)):
            machine.now = second
            machine.page |= {"running": running, "waiting": waiting, "kv_cache_usage": usage}
            machine.tasks, machine.memory = tasks, 2 * 10**9
            machine.used = {11: 50.0 + second, 12: 60.0 + second / 2, 13: 70.0, 21: second / 4}
            watch._look_at_processes()
            watch._look()
        watch.requests = answered((104.0, 105.0), (106.0, 108.0))
        machine.now, machine.load = 112.3456, 2.345
        machine.page |= {"preemptions": 4.0, "queued": 12.0, "running": 70.0, "waiting": 60.0}
        machine.ours, machine.cores = 7.0, [3.0, 5.0, 4.0, 6.0]
        machine.tasks, machine.memory, machine.used = 30.0, 10**9, {}
    found = watch.conditions
    assert found.seconds == 12.35 and found.cores == 4
    assert found.load_average is not None
    assert (found.load_average.before, found.load_average.after) == (1.23, 2.35)
    # Eight busy seconds, of which two were ours, of four cores in 12.3456 s.
    assert found.foreign_cpu_share == round(6 / (4 * 12.3456), 4)
    assert found.foreign_runnable == 2.5 / 4
    assert (found.counters["preemptions"], found.counters["queued"], found.counters["latency_s"]) == (3.0, 10.0, None)
    assert found.kv_cache_usage_max == 0.9 and found.waiting_max == 95.0
    assert (found.waiting_mean, found.running_mean) == (0.5, 6.5)
    assert found.peak_memory_bytes == 2 * 10**9
    assert found.busy is not None
    assert (found.busy.api_server, found.busy.engine, found.busy.client, found.busy.gpu) == (1.0, 0.5, 0.25, None)
    assert found.gpu is found.gpu_load is found.foreign_gpu_processes is None
    assert machine.main_threads == {11: False, 12: True, 13: False, 21: False}
    assert machine.foreign_of == {1, 11, 12, 13, 21}
    assert set(machine.asked) == {(URL, "KEY")}


def test_without_requests_the_whole_watch_counts(machine: Machine) -> None:
    with monitor.Watch(URL, 11, ()) as watch:
        machine.page = {"running": 3.0, "waiting": 0.004}
        machine.tasks = 1.0
        watch._look()
        machine.now = 110.0
    assert watch.conditions.running_mean == 3.0 and watch.conditions.waiting_mean == 0.0
    assert watch.conditions.foreign_runnable == 0.25
    assert watch.conditions.counters == dict.fromkeys(counters.COUNTERS)
    assert watch.conditions.busy == monitor.Busy()


def test_nothing_is_made_up_of_a_server_that_tells_nothing(machine: Machine) -> None:
    machine.page = None
    with monitor.Watch(URL, 11, ()) as watch:
        watch._look()
        machine.now, machine.ours = 104.0, 5.0
    found = watch.conditions
    assert found.counters == {} and found.foreign_runnable is None
    assert found.kv_cache_usage_max is found.waiting_max is found.waiting_mean is found.running_mean is None
    assert found.peak_memory_bytes is None, "no memory at all is not known"
    assert found.foreign_cpu_share == 0


def test_counters_need_a_reading_before_and_after(machine: Machine) -> None:
    for before, after in ((None, {"queued": 1.0}), ({"queued": 1.0}, None)):
        machine.page = before
        with monitor.Watch(URL, 11, ()) as watch:
            machine.now += 1
            machine.page = after
        assert watch.conditions.counters == {}


def test_what_others_take_is_not_known_beside_a_server_that_is_not_ours(machine: Machine) -> None:
    with monitor.Watch(URL, None, ()) as watch:
        machine.tasks, machine.memory = 2.0, 5
        watch._look()
        machine.now = 110.0
        machine.cores = [9.0, 9.0, 9.0, 9.0]
    found = watch.conditions
    assert (found.foreign_cpu_share, found.foreign_runnable, found.peak_memory_bytes) == (None, None, None)


@pytest.mark.parametrize(("busy", "share"), [(2.0, 0.0), (1.9, None), (4.0, 0.0), (8.0, 0.1)])
def test_cores_that_report_less_than_half_of_our_time_are_others(
    machine: Machine, busy: float, share: float | None
) -> None:
    with monitor.Watch(URL, 11, ()) as watch:
        machine.now, machine.ours = 110.0, 9.0
        machine.cores[2] += busy
    assert watch.conditions.foreign_cpu_share == share


def test_one_sample_in_four_is_of_all_else(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    watch = monitor.Watch(URL, 11, ())
    waits = iter([False] * 9 + [True])
    looks: list[str] = []
    monkeypatch.setattr(watch._stop, "wait", lambda seconds: next(waits) if seconds == 600.0 else None)
    monkeypatch.setattr(watch, "_look_at_processes", lambda: looks.append("processes"))
    monkeypatch.setattr(watch, "_look", lambda: looks.append("all"))
    watch._sample()
    four = ["processes"] * 4
    assert looks == ["processes", "all", *four, "all", *four, "all"]
    # All else every two seconds.
    assert (INTERVAL_S, monitor.EVERY) == (0.5, 4)


@pytest.mark.parametrize(
    ("listed", "foreign"), [({1, 12, 40, 30}, (30, 40)), ({12}, ()), ({30, 40}, None), (set(), None)]
)
def test_a_gpu_is_sampled_and_its_processes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, listed: set[int], foreign: tuple[int, ...] | None
) -> None:
    lines = iter([(1980, 0, 900), (1500, 80, 1000), (1400, 100, 1024)])

    def sample(at: float) -> gpu_monitor.GpuSample | None:
        found = next(lines, None)
        if found is None:
            return None
        mhz, busy, mib = found
        return gpu_monitor.parse(SAMPLE.format(mhz=mhz, busy=busy, mib=mib), at)

    monkeypatch.setattr(monitor, "GpuSampler", lambda gpu: SimpleNamespace(sample=sample))
    monkeypatch.setattr(monitor.gpu_monitor, "processes", lambda gpus: listed)
    with monitor.Watch(URL, 11, ("0",)) as watch:
        watch._look()
        machine.now = 104.0
        watch._look()
        machine.now = 105.0
        watch.requests = answered((103.0, 105.0))
        machine.memory = 512
    found = watch.conditions
    # The driver's MiB; without a sample the server's processes are asked.
    assert found.peak_memory_bytes == 1024 * 2**20
    assert found.gpu is not None and (found.gpu["sm_mhz"].min, found.gpu["sm_mhz"].max) == (1400, 1980)
    assert found.gpu_load is not None and (found.gpu_load.samples, found.gpu_load.sm_mhz) == (2, 1450)
    assert found.busy is not None and found.busy.gpu == 0.9
    assert found.foreign_gpu_processes == foreign


def test_each_gpu_of_a_server_is_sampled(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    samples = {
        "2": gpu_monitor.parse(SAMPLE.format(mhz=1980, busy=100, mib=900), 101.0),
        "3": gpu_monitor.parse(SAMPLE.format(mhz=1500, busy=80, mib=1000), 101.0),
    }
    monkeypatch.setattr(monitor, "GpuSampler", lambda gpu: SimpleNamespace(sample=lambda at: samples[gpu]))
    monkeypatch.setattr(monitor.gpu_monitor, "processes", lambda gpus: {12} if gpus == ("2", "3") else set())
    with monitor.Watch(URL, 11, ("2", "3")) as watch:
        watch._look()
        machine.now = 102.0
    found = watch.conditions
    assert found.peak_memory_bytes == 1000 * 2**20, "of the fuller one"
    assert found.gpu is not None and (found.gpu["sm_mhz"].min, found.gpu["sm_mhz"].max) == (1500, 1980)
    assert found.foreign_gpu_processes == ()


def test_a_machine_without_a_driver_is_asked_for_the_servers_memory(
    monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    monkeypatch.setattr(monitor, "GpuSampler", lambda gpu: SimpleNamespace(sample=lambda at: None))
    machine.memory = 512
    with monitor.Watch(URL, 11, ("0",)) as watch:
        machine.now = 101.0
    assert watch.conditions.peak_memory_bytes == 512
    assert watch.conditions.gpu is None and watch.conditions.foreign_gpu_processes is None


@pytest.mark.parametrize(
    ("start", "end", "window"),
    [
        (100.0, 112.0, (100.0, 112.0)),
        (103.0, 106.0, (103.0, 106.0)),
        # Of another clock, or of no time at all.
        (99.9, 106.0, (100.0, 112.0)),
        (103.0, 112.1, (100.0, 112.0)),
        (103.0, 103.0, (100.0, 112.0)),
    ],
)
def test_the_time_of_requests_lies_within_the_watch(
    machine: Machine, start: float, end: float, window: tuple[float, float]
) -> None:
    watch = monitor.Watch(URL, None, ())
    watch._started = 100.0
    watch.requests = answered((start, end))
    assert watch._window(112.0) == window


def test_samples_at_either_end_of_the_time_count(machine: Machine) -> None:
    watch = monitor.Watch(URL, None, ())
    watch._gauges = [(at, {"running": value}) for at, value in ((1.0, 10.0), (2.0, 20.0), (3.0, 30.0), (4.0, 40.0))]
    assert watch._gauge("running", 2.0, 3.0) == [20.0, 30.0]
    assert watch._gauge("running") == [10.0, 20.0, 30.0, 40.0]
    assert watch._gauge("waiting") == []
