"""Results of `bench`: loads with their metrics and conditions, guards, goodput and memory."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from pipeline.artifacts.manifest import Manifest
from pipeline.results.base import DeviceId, Frozen, Name, Result, Sentence
from pipeline.results.metrics import THROUGHPUTS, withheld
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


class GpuLoad(Frozen):
    """The GPU's samples under load: those with more than half of the power limit; None if unknown.

    Attributes:
        samples: number of samples.
        sm_mhz: median clock.
        power_w: median power.
        power_limit_w: power limit.
        slowed: share of the samples in which each reason kept the clock low, by the driver's reasons.
    """

    samples: int
    sm_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    slowed: dict[Name, float] | None = None


class Busy(Frozen):
    """Use of the processes and of the GPU while requests were in flight; None if unknown.

    Attributes:
        api_server: cores used by the API server, of several the busiest.
        engine: share of time in which the engine core's main thread ran; on a GPU it also spins while it waits.
        client: cores used by the load generator.
        gpu: share of time in which a kernel ran.
    """

    api_server: float | None = None
    engine: float | None = None
    client: float | None = None
    gpu: float | None = None


class Conditions(Frozen):
    """Conditions of machine and server during one repeat; None if unknown.

    Attributes:
        seconds: duration of the repeat.
        load_average: before and after.
        cores: those that the benchmark may use, by its affinity.
        foreign_cpu_share: of all cores, used by processes that are neither the server's nor ours.
        foreign_runnable: mean number of runnable tasks per core that are neither the server's nor ours.
        counters: growth of the server's counters, by the names of `serve.counters`.
        kv_cache_usage_max: the largest share of the KV cache in use.
        waiting_max: the longest queue.
        waiting_mean: mean number of requests in the engine's queue.
        running_mean: mean number of requests that the engine worked on.
        busy: use of the processes and of the GPU.
        peak_memory_bytes: on a GPU all of its memory in use, of several the fullest, as the driver reports it (MiB,
            here in bytes); else what the server's processes held.
        gpu: clock, temperature, power, utilization and memory of all of the server's GPUs, if there is one.
        gpu_load: the GPUs under load.
        foreign_gpu_processes: other processes on the GPU.
    """

    seconds: float | None = None
    load_average: LoadAverage | None = None
    cores: int | None = None
    foreign_cpu_share: float | None = None
    foreign_runnable: float | None = None
    counters: dict[str, float | None] = Field({})
    kv_cache_usage_max: float | None = None
    waiting_max: float | None = None
    waiting_mean: float | None = None
    running_mean: float | None = None
    busy: Busy | None = None
    peak_memory_bytes: int | None = None
    gpu: dict[str, Span] | None = None
    gpu_load: GpuLoad | None = None
    foreign_gpu_processes: tuple[int, ...] | None = None


LoadKind = Literal["open", "closed", "at once"]


def kind_of(request_rate: float | Literal["inf"], max_concurrency: int | None) -> LoadKind:
    """Return the kind of a load, after Schroeder, Wierman and Harchol-Balter (NSDI 2006).

    Open: requests arrive at a rate, whether or not others were answered. Closed: a number of requests in flight, each
    answer followed by the next request. At once: all arrive together.
    """
    if request_rate != "inf":
        return "open"
    return "at once" if max_concurrency is None else "closed"


class LoadResult(Frozen):
    """Measurements under one load of a protocol; a probe of the goodput search is a load of one repeat.

    Ladder levels, rates and probes are analysed without their ramp and drain, other loads as a whole.

    Attributes:
        name: unique name of the load, the same for every variant.
        num_prompts: requests of one repeat.
        request_rate: requests per second; "inf" sends all at once.
        max_concurrency: requests in flight; None for no limit.
        seeds: seed of each repeat's prompts.
        blocks: block of each repeat; all repeats of a variant in one block share one start of its server. Empty if all
            are of one block.
        devices: identity of the device of each repeat, a GPU's UUID or several; empty if unknown.
        asked: requests of all repeats; `completed` and `failed` of them.
        input_tokens: total prompt tokens of each repeat.
        output_tokens: total generated tokens of each repeat.
        metrics: metrics by vLLM's names, and `request_goodput` with an SLO.
        conditions: conditions of each repeat.
        analysed: requests of each repeat that `metrics` are of, those of the steady part; empty if all are.
        in_flight: mean requests in flight during the analysed part of each repeat; empty if unknown.
    """

    name: Name
    num_prompts: int
    request_rate: float | Literal["inf"]
    max_concurrency: int | None
    seeds: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    devices: tuple[DeviceId, ...] = ()
    asked: int
    completed: int
    failed: int
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    metrics: dict[MetricName, Metric]
    conditions: tuple[Conditions, ...] = ()
    analysed: tuple[int, ...] = ()
    in_flight: tuple[float, ...] = ()

    @property
    def gpus(self) -> frozenset[str]:
        """UUIDs of the GPUs of all repeats; empty if unknown."""
        return frozenset(gpu for device in self.devices for gpu in device.split(",") if gpu)

    @property
    def kind(self) -> LoadKind:
        """Open or closed."""
        return kind_of(self.request_rate, self.max_concurrency)

    @property
    def withheld(self) -> dict[str, str]:
        """Percentiles that too few requests support, by metric, each with the reason."""
        return withheld(min(self.analysed, default=self.num_prompts))

    def incomparable(self, name: str, other: LoadResult) -> str | None:
        """Return the reason why a metric has no change from the same load of another variant; None if it has.

        The throughput of an open load is the offered rate, and its latencies depend on that rate.
        """
        if self.request_rate != other.request_rate:
            return f"BF16 was sent requests at another rate ({other.request_rate} per second)"
        if self.kind == "open" and name in THROUGHPUTS:
            return "the rate is given, so throughput is not a result"
        return None


# The guard of the engine as what limited a load.
BOTTLENECK = "bottleneck"


class Guard(Frozen):
    """Check of the validity of a load's measurement, as a sentence.

    `passed` is None if that is unknown, or reported only; `load` is None for the whole benchmark.
    """

    name: Name
    passed: bool | None
    text: Sentence
    load: Name | None = None


class Probe(Frozen):
    """One probe of the search for the highest good rate: an open load, analysed without its ramp and drain.

    Attributes:
        rate: offered requests per second.
        load: name of the load.
        percentile: percent of requests that must meet each limit.
        met: whether the SLO was met and the offered rate completed.
        seen: the percentile of each limited metric, milliseconds; None if it lies among failed requests.
        completed: completions as a share of the offered rate; None in results of earlier versions, as all below.
        requests: number of requests analysed.
        in_flight: mean requests in flight.
        seconds: requested duration.
        counts: false if it met the SLO, but was too short to be a steady state; it was then sent again.
    """

    rate: float
    load: str = ""
    percentile: float | None = None
    met: bool
    seen: dict[Short, float | None]
    completed: float | None = None
    requests: int | None = None
    in_flight: float | None = None
    seconds: float | None = None
    counts: bool | None = None


class Goodput(Frozen):
    """The highest rate that met the SLO and the lowest that did not, requests per second of an open load.

    Attributes:
        slo: limit of each metric in milliseconds.
        met: the highest rate that met it; None if none was found.
        unmet: the lowest rate that did not meet it; None if none was found.
        probes: all probes in order.
        met_confirmed: further probes with other seeds agreed; None in results of earlier versions.
        unmet_confirmed: further probes with other seeds agreed; None in results of earlier versions.
        monotone: no rate met the SLO above one that did not; None in results of earlier versions.
    """

    slo: dict[Short, float]
    met: float | None
    unmet: float | None
    probes: tuple[Probe, ...]
    met_confirmed: bool | None = None
    unmet_confirmed: bool | None = None
    monotone: bool | None = None


class Memory(Frozen):
    """Memory of the server on each of its GPUs, in bytes; None if unknown, as for an attached server.

    Attributes:
        weights_bytes: size of the checkpoint's files, divided by the GPUs that share each weight.
        kv_bytes_per_token: keys and values of one token, likewise.
        kv_cache_tokens: capacity of the KV cache of a copy of the model, as vLLM prints it.
        kv_cache_bytes: memory of the KV cache.
        peak_bytes: observed peak of the quantity named by `peak_of`, of the fullest GPU.
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
        temperature: of the requests; None if they name none.
        server: the measured server.
        memory: memory of the server.
        failures: failures of servers tried before.
        memory_bandwidth: measured read bandwidth of the machine, bytes per second.
    """

    SOURCE: ClassVar[str] = "the benchmark's manifest"

    protocol: Name = ""
    block: int = 0
    device: DeviceId = ""
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
    temperature: float | None = None
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
