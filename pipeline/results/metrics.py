"""The metrics of a benchmark: name in vLLM's result file, title, unit, and which way is better.

All else looks them up: the bench stage writes the metrics of `METRICS` that vLLM reports, `HEADLINE` are the columns of
the comparison, sections take titles and units from here.
"""

from __future__ import annotations

from typing import Literal

from pipeline.results.base import Frozen

Direction = Literal["higher", "lower"]


class MetricDefinition(Frozen):
    """A metric of a load; `name` is vLLM's."""

    name: str
    title: str
    unit: str
    better: Direction


def _throughput(name: str, title: str, unit: str) -> MetricDefinition:
    return MetricDefinition(name=name, title=title, unit=unit, better="higher")


# Latencies of a request, as vLLM abbreviates them.
LATENCIES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Between two tokens",
    "e2el": "Whole answer",
}
# vLLM's names: the 50th percentile is its median.
PERCENTILES = {50: "median", 90: "p90", 99: "p99"}
# Requests of a repeat below which a percentile is not reported: of fewer than 100 requests P99 is their largest value,
# which lies below the true P99 more often than not; about 5 beyond a percentile make an interval of it possible.
MIN_REQUESTS = {"p90": 20, "p99": 100}


def latency(statistic: str, name: str) -> MetricDefinition:
    """Return the metric of a statistic (mean, std, median, p90, p99) of a latency."""
    title = f"{statistic.capitalize()} {name.upper()}"
    return MetricDefinition(name=f"{statistic}_{name}_ms", title=title, unit="ms", better="lower")


THROUGHPUT = _throughput("total_token_throughput", "Throughput", "tok/s")
THROUGHPUT_PER_GPU = _throughput("total_token_throughput_per_gpu", "Throughput per GPU", "tok/s")
OUTPUT_THROUGHPUT = _throughput("output_throughput", "Output throughput", "tok/s")
REQUEST_THROUGHPUT = _throughput("request_throughput", "Request throughput", "req/s")
GOODPUT = _throughput("request_goodput", "Goodput", "req/s")
TTFT = latency("mean", "ttft")
TPOT = latency("mean", "tpot")
P99_TTFT = latency("p99", "ttft")
P99_TPOT = latency("p99", "tpot")
P99_E2EL = latency("p99", "e2el")
THROUGHPUTS = tuple(metric.name for metric in (THROUGHPUT, THROUGHPUT_PER_GPU, OUTPUT_THROUGHPUT, REQUEST_THROUGHPUT))
# Columns of the comparison; where a variant takes several GPUs, also the throughput of one.
HEADLINE = (THROUGHPUT, TTFT, TPOT)
METRICS = {
    metric.name: metric
    for metric in (
        *(THROUGHPUT, THROUGHPUT_PER_GPU, OUTPUT_THROUGHPUT, REQUEST_THROUGHPUT, GOODPUT),
        *(latency(statistic, name) for name in LATENCIES for statistic in ("mean", "std", *PERCENTILES.values())),
    )
}


def title(name: str) -> str:
    """Return a metric's title; its name where a stored result holds a metric that is not known."""
    return METRICS[name].title if name in METRICS else name


def withheld(requests: int) -> dict[str, str]:
    """Return the percentiles that so many requests of a repeat do not support, by metric, each with the reason."""
    return {
        latency(statistic, name).name: f"{requests} requests a repeat, {statistic.upper()} needs {least}"
        for statistic, least in MIN_REQUESTS.items()
        if requests < least
        for name in LATENCIES
    }
