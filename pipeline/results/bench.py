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
    """The least and the largest value seen."""

    min: float
    max: float


class LoadAverage(Frozen):
    """The machine's load average."""

    before: float
    after: float


class Conditions(Frozen):
    """What machine and server went through during one repeat; None for what cannot be told.

    Attributes:
        seconds: its duration.
        load_average: before and after.
        foreign_cpu_share: of all cores, used by processes that are neither the server's nor ours.
        counters: growth of the server's counters, by the names of `stages.bench.counters`.
        kv_cache_usage_max: the largest share of the KV cache in use.
        waiting_max: the longest queue.
        peak_memory_bytes: on a GPU all of its memory in use, else what the server's processes held.
        gpu: clock, temperature, power and memory, where there is one.
        foreign_gpu_processes: processes of others on the GPU.
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
    """What was measured under one load of a protocol; a probe of the search for goodput is a load of one repeat.

    Attributes:
        name: what tells it from the others, the same for every variant.
        num_prompts: requests of one repeat.
        request_rate: requests per second; "inf" sends all at once.
        max_concurrency: requests in flight; None for no limit.
        seeds: of each repeat's prompts.
        asked: requests of all repeats; `completed` and `failed` of them.
        input_tokens: of all prompts, a sum for each repeat.
        output_tokens: generated, a sum for each repeat.
        metrics: by vLLM's names, and `request_goodput` with an SLO.
        conditions: of each repeat.
    """

    name: Name
    num_prompts: int
    request_rate: float | Literal["inf"]
    max_concurrency: int | None
    seeds: tuple[int, ...] = ()
    asked: int
    completed: int
    failed: int
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    metrics: dict[MetricName, Metric]
    conditions: tuple[Conditions, ...] = ()


class Guard(Frozen):
    """Whether a load measured what it says, as a sentence.

    `passed` is None where that cannot be told, or is told and not judged; `load` is None for the whole benchmark.
    """

    name: Name
    passed: bool | None
    text: Sentence
    load: Name | None = None


class Probe(Frozen):
    """One rate of the search for the highest good one, with the percentile of each limited metric, milliseconds.

    The percentile is None where it lies among failed requests. `load` names the load that was sent.
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
    """What the server held, in bytes; None for what is not known, as of a server that is not ours.

    Attributes:
        weights_bytes: of the checkpoint's files.
        kv_bytes_per_token: keys and values of one token.
        kv_cache_tokens: that vLLM set memory aside for.
        kv_cache_bytes: of that memory.
        peak_bytes: the most that was seen, of what `peak_of` says.
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
        headline: name of the load that stands for all; None where none was measured.
        loads: in the order in which they ran.
        left_out: loads that the budget left out.
        guards: of all loads.
        warm_up: tok/s of each round.
        goodput: where an SLO was asked for.
        server: what was measured.
        memory: what the server held.
        failures: of servers tried before.
        memory_bandwidth: bytes per second that the machine reads, measured.
    """

    SOURCE: ClassVar[str] = "the benchmark's manifest"

    protocol: Name = ""
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
        """The load of that name."""
        return next((load for load in self.loads if load.name == name), None)


def machine_of(manifest: Manifest) -> str:
    """The machine of a result, in a few words."""
    hardware = manifest.hardware
    name = clean(hardware.get("name", "an unknown machine"), 80)
    return f"{name}, {hardware['cores']} cores" if hardware.get("device") == "cpu" and "cores" in hardware else name
