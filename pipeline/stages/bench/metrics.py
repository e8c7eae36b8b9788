"""The figures of a load: vLLM's own for each repeat, and how sure each percentile is within its repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare.stats.bootstrap import percentile_errors
from pipeline.results.bench import Metric
from pipeline.stages.bench.client import LATENCIES, PERCENTILES, Run

THROUGHPUTS = {"total_token_throughput": "tok/s", "output_throughput": "tok/s", "request_throughput": "req/s"}
# vLLM's names: the 50th percentile is its median.
NAMES = {50: "median", 90: "p90", 99: "p99"}


def figures_of(runs: Sequence[Run], limits: Mapping[str, float]) -> dict[str, Metric]:
    """Each metric's unit and values, one a repeat.

    Percentiles also have `errors`: the standard error of each value over the requests of its repeat, by a bootstrap.

    Args:
        runs: the repeats of one load.
        limits: the SLO, milliseconds by metric; with any, there is goodput.
    """
    names = [f"{statistic}_{latency}_ms" for latency in LATENCIES for statistic in ("mean", "std", *NAMES.values())]
    units = {**THROUGHPUTS, **dict.fromkeys(names, "ms")}
    found = {
        name: Metric(unit=unit, values=tuple(float(run.summary[name]) for run in runs))
        for name, unit in units.items()
        if all(name in run.summary for run in runs)
    }
    for latency in LATENCIES:
        errors = [percentile_errors(*run.requests.latencies()[latency], PERCENTILES) for run in runs]
        for index, percent in enumerate(PERCENTILES):
            name = f"{NAMES[percent]}_{latency}_ms"
            if name in found:
                found[name] = found[name].model_copy(update={"errors": tuple(each[index] for each in errors)})
    if limits:
        good = tuple(run.requests.meeting(limits) / float(run.summary["duration"]) for run in runs)
        found["request_goodput"] = Metric(unit="req/s", values=good)
    return found
