"""CPU time, memory and runnable tasks of processes, read from `/proc` without disturbing them.

vLLM's API server is the process that was started; the engine core and its workers are its descendants, named by their
titles (`VLLM::EngineCore`, `VLLM::Worker_TP0`) if `setproctitle` is installed beside vLLM.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

Role = Literal["api_server", "engine", "client"]


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


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the core-seconds used by these processes and their exited children."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def busy_s() -> list[float]:
    """Return the busy seconds of each core that this process may use (`taskset` and containers limit these).

    All that is neither idle nor waiting for a disk counts: also work of low priority (`nice`), interrupts, and what the
    host of a virtual machine gave to others (`steal`).
    """
    times = psutil.cpu_times(percpu=True)
    # `guest` is part of `user`.
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = [sum(getattr(core, name, 0.0) for name in names) for core in times]
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    # Some containers list only their own cores, but number the allowed ones as the host does.
    return [busy[core] for core in sorted(may)] if max(may) < len(busy) else busy


def has_part_of_the_cores() -> bool:
    """Return whether this process may use only some of the machine's cores."""
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def roles(server: int) -> dict[int, Role]:
    """Return the role of each process of a vLLM server by its pid."""
    found: dict[int, Role] = {}
    for process in family(server):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if process.pid == server or "APIServer" in title or "ApiServer" in title:
            found[process.pid] = "api_server"
        elif "resource_tracker" not in title:
            found[process.pid] = "engine"
    return found


def used_s(pid: int, *, main_thread: bool = False) -> float | None:
    """Return the core-seconds used by a process, or by its main thread alone; None if it has exited."""
    name = f"/proc/{pid}/task/{pid}/stat" if main_thread else f"/proc/{pid}/stat"
    try:
        fields = Path(name).read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def foreign_runnable(own: Iterable[int]) -> float | None:
    """Return the number of runnable tasks of the machine that are not of these processes; None if it is not reported.

    The kernel counts the runnable tasks in the fourth field of `/proc/loadavg`; the load average is their mean. They
    may run on any core: a process with a part of the cores (`taskset`, containers) cannot tell which compete with it.
    """
    if has_part_of_the_cores():
        return None
    try:
        runnable = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None
    if not runnable:  # This very task is runnable: the number is made up, as in some containers.
        return None
    return float(max(0, runnable - sum(_runnable(pid) for pid in own)))


def _runnable(pid: int) -> int:
    count = 0
    try:
        for task in os.scandir(f"/proc/{pid}/task"):
            with open(f"{task.path}/stat") as file:
                count += file.read().rpartition(")")[2].split()[0] == "R"
    except OSError:
        pass
    return count


@dataclass
class Usage:
    """Core-seconds of one process, sampled over time."""

    times: list[float]
    seconds: list[float]

    def share(self, start: float, end: float) -> float:
        """Return the cores used between two times, interpolated between samples."""
        before, after = np.interp([start, end], self.times, self.seconds)
        return float(after - before) / (end - start)
