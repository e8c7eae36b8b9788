"""Monitoring of the machine and the server during a load: the evidence for the guards.

A thread takes a sample every few seconds; on a GPU, by `nvidia-smi`. Processes that are neither the
server's nor this pipeline's are foreign: what they take is missing from what is measured.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

import psutil

from pipeline.hardware.probe import nvidia_smi
from pipeline.results.bench import Conditions, LoadAverage, Span
from pipeline.stages.bench import counters

INTERVAL_S = 2.0
GPU_FIELDS = {
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "memory_mib": "memory.used",
    "total_mib": "memory.total",
}


def gpu() -> dict[str, float]:
    """Return clock, temperature, power and memory of the GPU; empty if there is none."""
    line = nvidia_smi(f"--query-gpu={','.join(GPU_FIELDS.values())}")[:1]
    found = {}
    for name, text in zip(GPU_FIELDS, line[0].split(",") if line else (), strict=False):
        try:
            found[name] = float(text)
        except ValueError:  # "[N/A]": this GPU does not report it
            continue
    return found


def gpu_processes() -> dict[int, float]:
    """Return the MiB held on the GPU by each process that computes on it."""
    found = {}
    for line in nvidia_smi("--query-compute-apps=pid,used_memory"):
        pid, _, memory = line.partition(",")
        try:
            found[int(pid)] = float(memory)
        except ValueError:
            continue
    return found


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; empty if it has exited."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_of(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, shared pages by proportional share."""
    total = 0
    for process in family(pid):
        try:
            with open(f"/proc/{process.pid}/smaps_rollup") as lines:
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
    return total


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the core-seconds used by these processes and their exited children."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _busy_s() -> list[float]:
    """Return the busy seconds of each core that this process may use (`taskset` and containers limit these)."""
    busy = [times.user + times.system for times in psutil.cpu_times(percpu=True)]
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    # Some containers list only their own cores, but number the allowed ones as the host does.
    return [busy[core] for core in sorted(may)] if max(may) < len(busy) else busy


class Watch:
    """Context manager around one load; afterwards `conditions` has the observations."""

    def __init__(self, url: str, pid: int | None, on_gpu: bool) -> None:
        """Prepare to monitor a server.

        Args:
            url: of the server.
            pid: of the server; None where it is not ours, and what it takes cannot be told from what others take.
            on_gpu: whether the server computes on a GPU of this machine.
        """
        self.url = url
        self.pid = pid
        self.on_gpu = on_gpu
        self.conditions = Conditions()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._usage: list[float] = []
        self._waiting: list[float] = []
        self._memory: list[float] = []
        self._gpu: list[dict[str, float]] = []

    def __enter__(self) -> Watch:
        """Read the counters and start sampling."""
        self._load = os.getloadavg()[0]
        self._before = counters.read(self.url)
        self._ours = _cpu_s(family(os.getpid()))
        self._busy = _busy_s()
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling and summarize."""
        seconds = time.monotonic() - self._started
        self._stop.set()
        self._thread.join()
        ours = _cpu_s(family(os.getpid())) - self._ours
        busy = [now - before for now, before in zip(_busy_s(), self._busy, strict=True)]
        after = counters.read(self.url)
        self._look()
        counted = after.since(self._before) if after is not None and self._before is not None else {}
        foreign = round(max(0.0, sum(busy) - ours) / (seconds * len(busy)), 4)
        found = Conditions(
            seconds=round(seconds, 2),
            load_average=LoadAverage(before=round(self._load, 2), after=round(os.getloadavg()[0], 2)),
            foreign_cpu_share=foreign if self.pid else None,
            counters=counted,
            kv_cache_usage_max=max(self._usage, default=None),
            waiting_max=max(self._waiting, default=None),
            peak_memory_bytes=int(max(self._memory, default=0)) or None,
        )
        if self._gpu:
            seen = {name: [look[name] for look in self._gpu if name in look] for name in GPU_FIELDS}
            spans = {name: Span(min=min(values), max=max(values)) for name, values in seen.items() if values}
            found = found.model_copy(update={"gpu": spans, "foreign_gpu_processes": self._foreign()})
        self.conditions = found

    def _foreign(self) -> tuple[int, ...] | None:
        """Return the foreign processes on the GPU; None if ours is not listed by its pid (in a container)."""
        own, listed = {process.pid for process in family(os.getpid())}, set(gpu_processes())
        return tuple(sorted(listed - own)) if listed & own else None

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        reading = counters.read(self.url)
        if reading is not None:
            for name, kept in (("kv_cache_usage", self._usage), ("waiting", self._waiting)):
                if name in reading.values:
                    kept.append(reading.values[name])
        if self.on_gpu and (seen := gpu()):
            self._gpu.append(seen)
            self._memory.append(seen.get("memory_mib", 0.0) * 2**20)
        elif self.pid is not None:
            self._memory.append(memory_of(self.pid))
