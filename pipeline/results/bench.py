"""Results of `bench`: loads with their metrics and conditions, guards, goodput and memory."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from pipeline.artifacts.manifest import Manifest
from pipeline.results.base import Frozen, Name, Result, Sentence
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean

MetricName = Annotated[str, AfterValidator(clean)]
Short = Annotated[str, AfterValidator(lambda value: clean(value, 20))]


class Metric(Frozen):
    """One figure of a benchmark, once per repeat.

    Attributes:
        unit: of the values.
        values: one a repeat.
        errors: of a percentile, its standard error over the requests of each repeat; empty or None where unknown.
    """

    unit: Short
    values: tuple[float, ...]
    errors: tuple[float | None, ...] = ()


class Span(Frozen):
    """Smallest and largest observed value."""

    min: float
    max: float


class LoadAverage(Frozen):
    """The machine's load average."""

    before: float
    after: float


class Conditions(Frozen):
    """Conditions of machine and server during one repeat; None if unknown.

    Attributes:
        seconds: duration of the repeat.
        load_average: before and after.
        foreign_cpu_share: of all cores, used by processes that are neither the server's nor ours.
        counters: growth of the server's counters, by the names of `stages.bench.counters`.
        kv_cache_usage_max: the largest share of the KV cache in use.
        waiting_max: the longest queue.
        peak_memory_bytes: on a GPU all of its memory in use, else what the server's processes held.
        gpu: clock, temperature, power and memory, if there is a GPU.
        foreign_gpu_processes: other processes on the GPU.
    """

    seconds: float | None = None
    load_average: LoadAverage | None = None
    foreign_cpu_share: float | None = None
    counters: dict[str, float | None] = Field({})
    kv_cache_usage_max: float | None = None
    waiting_max: float | None = None
    peak_memory_bytes: int | None = None
    gpu: dict[str, Span] | None = None
    foreign_gpu_processes: tuple[int, ...] | None = None


class LoadResult(Frozen):
    """Measurements under one load of a protocol; a probe of the goodput search is a load of one repeat.

    Attributes:
        name: unique name of the load, the same for every variant.
        num_prompts: requests of one repeat.
        request_rate: requests per second; "inf" sends all at once.
        max_concurrency: requests in flight; None for no limit.
        seeds: seed of each repeat's prompts.
        blocks: block of each repeat; all repeats of a variant in one block share one start of its server. Empty if all
            are of one block.
        devices: identity of the device of each repeat, a GPU's UUID; empty if unknown.
        asked: requests of all repeats; `completed` and `failed` of them.
        input_tokens: total prompt tokens of each repeat.
        output_tokens: total generated tokens of each repeat.
        metrics: metrics by vLLM's names, and `request_goodput` with an SLO.
        conditions: conditions of each repeat.
    """

    name: Name
    num_prompts: int
    request_rate: float | Literal["inf"]
    max_concurrency: int | None
    seeds: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    devices: tuple[Name, ...] = ()
    asked: int
    completed: int
    failed: int
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    metrics: dict[MetricName, Metric]
    conditions: tuple[Conditions, ...] = ()


class Guard(Frozen):
    """Check of the validity of a load's measurement, as a sentence.

    `passed` is None if that is unknown, or reported only; `load` is None for the whole benchmark.
    """

    name: Name
    passed: bool | None
    text: Sentence
    load: Name | None = None


class Probe(Frozen):
    """One rate of the search for the highest good one, with the percentile of each limited metric, milliseconds.

    The percentile is None if it lies among failed requests. `load` is the name of the load.
    """

    rate: float
    load: str = ""
    percentile: float | None = None
    met: bool
    seen: dict[Short, float | None]


class Goodput(Frozen):
    """The highest rate that met the SLO and the lowest that did not, requests per second; None where none showed.

    `slo` has the limit of each metric in milliseconds.
    """

    slo: dict[Short, float]
    met: float | None
    unmet: float | None
    probes: tuple[Probe, ...]


class Memory(Frozen):
    """Memory of the server, in bytes; None if unknown, as for an attached server.

    Attributes:
        weights_bytes: size of the checkpoint's files.
        kv_bytes_per_token: keys and values of one token.
        kv_cache_tokens: capacity of vLLM's KV cache.
        kv_cache_bytes: memory of the KV cache.
        peak_bytes: observed peak of the quantity named by `peak_of`.
    """

    weights_bytes: int | None
    kv_bytes_per_token: int | None
    kv_cache_tokens: int | None
    kv_cache_bytes: int | None
    peak_bytes: int | None
    peak_of: Name = ""


class BenchResult(Result):
    """A benchmark by one protocol.

    `asked`, `completed`, `failed`, `output_tokens` and `metrics` are those of the load named `headline`, which the
    tables show: the one without a rate limit, of a ladder its highest level. Results of an early release have no
    loads.

    Attributes:
        protocol: name of the protocol.
        block: index of the block, in which every variant's server is started once; of merged blocks the first.
        device: identity of the device, a GPU's UUID; empty if unknown, or if merged blocks differ.
        headline: name of the load shown in tables; None if none was measured.
        loads: loads in order of execution.
        left_out: loads skipped for lack of budget.
        guards: checks of all loads.
        warm_up: tok/s of each warm-up round.
        goodput: result of the goodput search, if an SLO was set.
        server: the measured server.
        memory: memory of the server.
        failures: failures of servers tried before.
        memory_bandwidth: measured read bandwidth of the machine, bytes per second.
    """

    SOURCE: ClassVar[str] = "the benchmark's manifest"

    protocol: Name = ""
    block: int = 0
    device: Name = ""
    headline: Name | None = None
    asked: int
    completed: int
    failed: int = 0
    output_tokens: tuple[int, ...] = ()
    metrics: dict[MetricName, Metric]
    loads: tuple[LoadResult, ...] = ()
    left_out: tuple[Name, ...] = ()
    guards: tuple[Guard, ...] = ()
    warm_up: tuple[float, ...] = ()
    goodput: Goodput | None = None
    server: ServerFacts = ServerFacts()
    memory: Memory | None = None
    failures: tuple[str, ...] = ()
    memory_bandwidth: float | None = None

    def load(self, name: str | None) -> LoadResult | None:
        """Return the load with that name."""
        return next((load for load in self.loads if load.name == name), None)


def machine_of(manifest: Manifest) -> str:
    """Return a short description of a result's machine."""
    hardware = manifest.hardware
    name = clean(hardware.get("name", "an unknown machine"), 80)
    return f"{name}, {hardware['cores']} cores" if hardware.get("device") == "cpu" and "cores" in hardware else name
