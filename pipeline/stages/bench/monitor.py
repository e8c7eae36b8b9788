"""Monitoring of the machine and the server during a load: the evidence for the guards.

A thread reads the CPU time of the server's and the client's processes twice a second, and everything else every two
seconds; on a GPU, by `nvidia-smi`. Processes that are neither the server's nor this pipeline's are foreign: what they
take is missing from what is measured. Loading of prompts by the client before the first request and its evaluation
after the last are cut from all means.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pipeline.results.bench import Busy, Conditions, LoadAverage
from pipeline.serve import counters
from pipeline.stages.bench import gpu_monitor
from pipeline.stages.bench.gpu_monitor import GpuSample, GpuSampler
from pipeline.stages.bench.processes import (
    Role,
    Usage,
    busy_s,
    cpu_s,
    family,
    foreign_runnable,
    memory_of,
    roles,
    used_s,
)
from pipeline.stages.bench.requests import Requests

CPU_INTERVAL_S = 0.5
# Samples of the CPU time for each one of all else.
EVERY = 4
# The cores of which the kernel reports less busy time than our own processes used are not those that they run on.
CREDIBLE = 0.5


class Watch:
    """Context manager around one load; afterwards `conditions` has the observations."""

    def __init__(
        self,
        url: str,
        pid: int | None,
        gpus: Sequence[str],
        client: Callable[[], int | None] = lambda: None,
        key_variable: str | None = None,
    ) -> None:
        """Prepare to monitor a server.

        Args:
            url: of the server.
            pid: of the server; None where it is not ours, and what it takes cannot be told from what others take.
            gpus: the GPUs of this machine that it computes on, by number or UUID; none on a CPU.
            client: returns the pid of the load generator, None while there is none.
            key_variable: environment variable with the server's key.
        """
        self.url = url
        self.key_variable = key_variable
        self.pid = pid
        self.client = client
        self.conditions = Conditions()
        # Set within the context: their times are those of this machine's monotonic clock.
        self.requests: Requests | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._roles: dict[int, Role] = {}
        self._usage: dict[int, Usage] = {}
        self._gauges: list[tuple[float, Mapping[str, float]]] = []
        self._foreign_tasks: list[tuple[float, float]] = []
        self._memory: list[float] = []
        self._gpus = tuple(gpus)
        self._samplers = [GpuSampler(gpu) for gpu in gpus]
        self._gpu: list[GpuSample] = []

    def __enter__(self) -> Watch:
        """Read the counters and start sampling."""
        self._load = os.getloadavg()[0]
        self._before = counters.read(self.url, self.key_variable)
        self._ours = cpu_s(family(os.getpid()))
        self._busy = busy_s()
        self._roles = roles(self.pid) if self.pid is not None else {}
        self._started = time.monotonic()
        self._look_at_processes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling and summarize."""
        ended = time.monotonic()
        self._stop.set()
        self._thread.join()
        ours = cpu_s(family(os.getpid())) - self._ours
        busy = [now - before for now, before in zip(busy_s(), self._busy, strict=True)]
        after = counters.read(self.url, self.key_variable)
        self._look_at_processes()
        self._look()
        counted = after.since(self._before) if after is not None and self._before is not None else {}
        foreign = max(0.0, sum(busy) - ours) / ((ended - self._started) * len(busy))
        known = self.pid is not None and sum(busy) >= CREDIBLE * ours
        start, end = self._window(ended)
        sent = [sample for sample in self._gpu if start <= sample.at <= end]
        tasks = [number for at, number in self._foreign_tasks if start <= at <= end]
        found = Conditions(
            seconds=round(ended - self._started, 2),
            load_average=LoadAverage(before=round(self._load, 2), after=round(os.getloadavg()[0], 2)),
            cores=len(busy),
            foreign_cpu_share=round(foreign, 4) if known else None,
            foreign_runnable=round(statistics.mean(tasks) / len(busy), 4) if tasks and self.pid is not None else None,
            counters=counted,
            kv_cache_usage_max=max(self._gauge("kv_cache_usage"), default=None),
            waiting_max=max(self._gauge("waiting"), default=None),
            waiting_mean=_mean(self._gauge("waiting", start, end)),
            running_mean=_mean(self._gauge("running", start, end)),
            busy=self._shares(start, end, sent),
            peak_memory_bytes=int(max(self._memory, default=0)) or None,
        )
        if self._gpu:
            update = {
                "gpu": gpu_monitor.spans(self._gpu),
                "gpu_load": gpu_monitor.under_load(sent),
                "foreign_gpu_processes": self._foreign(),
            }
            found = found.model_copy(update=update)
        self.conditions = found

    def _window(self, ended: float) -> tuple[float, float]:
        """Return the time from the first request to the last answer; that of the whole watch if it is unknown."""
        if self.requests is not None and self.requests.good.any():
            good = self.requests.good
            start = float(self.requests.start[good].min())
            end = float((self.requests.start + self.requests.latency)[good].max())
            # Python's `perf_counter` is the monotonic clock on Linux; elsewhere the two cannot be compared.
            if self._started <= start < end <= ended:
                return start, end
        return self._started, ended

    def _gauge(self, name: str, start: float = 0.0, end: float = float("inf")) -> list[float]:
        return [values[name] for at, values in self._gauges if name in values and start <= at <= end]

    def _shares(self, start: float, end: float, sent: Sequence[GpuSample]) -> Busy:
        """Return the use of the processes between two times, and of the GPU in the samples between them."""

        def busiest(role: Role) -> float | None:
            usages = [self._usage[pid] for pid, its in self._roles.items() if its == role and pid in self._usage]
            return max((round(usage.share(start, end), 4) for usage in usages), default=None)

        return Busy(
            api_server=busiest("api_server"),
            engine=busiest("engine"),
            client=busiest("client"),
            gpu=gpu_monitor.utilization(sent, start),
        )

    def _foreign(self) -> tuple[int, ...] | None:
        """Return the foreign processes on the GPUs; None if ours is not listed by its pid (in a container)."""
        own, listed = {process.pid for process in family(os.getpid())}, gpu_monitor.processes(self._gpus)
        return tuple(sorted(listed - own)) if listed & own else None

    def _sample(self) -> None:
        count = 0
        while not self._stop.wait(CPU_INTERVAL_S):
            self._look_at_processes()
            if count % EVERY == 0:
                self._look()
            count += 1

    def _look_at_processes(self) -> None:
        """Read the CPU time of each process with a role: of the engine, that of the thread with its loop."""
        client = self.client()
        if client is not None:
            self._roles[client] = "client"
        for pid, role in self._roles.items():
            used = used_s(pid, main_thread=role == "engine")
            if used is not None:
                usage = self._usage.setdefault(pid, Usage([], []))
                usage.times.append(time.monotonic())
                usage.seconds.append(used)

    def _look(self) -> None:
        at = time.monotonic()
        if (tasks := foreign_runnable({os.getpid(), *self._roles})) is not None:
            self._foreign_tasks.append((at, tasks))
        if (reading := counters.read(self.url, self.key_variable)) is not None:
            self._gauges.append((at, reading.values))
        samples = [sample for sampler in self._samplers if (sample := sampler.sample(at)) is not None]
        self._gpu += samples
        if samples:
            # Of the fullest GPU; the driver counts in MiB.
            self._memory.append(max(sample.values.get("memory_mib", 0.0) for sample in samples) * 2**20)
        elif self.pid is not None:
            self._memory.append(memory_of(self.pid))


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.mean(values), 2) if values else None
