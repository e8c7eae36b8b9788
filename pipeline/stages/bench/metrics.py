"""The figures of a load: vLLM's own for each repeat, and the standard error of each percentile within its repeat.

Those of a load that is analysed in part are computed from its requests by vLLM's definitions (`steady`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare.stats.bootstrap import percentile_errors
from pipeline.results import metrics
from pipeline.results.bench import Metric
from pipeline.results.metrics import GOODPUT, LATENCIES, METRICS, PERCENTILES, withheld
from pipeline.stages.bench.client import Run


def figures_of(runs: Sequence[Run], limits: Mapping[str, float]) -> dict[str, Metric]:
    """Return each metric's unit and values, one per repeat.

    A percentile that the fewest answered requests of a repeat do not support is left out. The others also have
    `errors`: the standard error of each value over the requests of its repeat, by a bootstrap.

    Args:
        runs: the repeats of one load.
        limits: the SLO, milliseconds by metric; with any, there is goodput.
    """
    left_out = withheld(min(int(run.requests.good.sum()) for run in runs))
    found = {
        name: Metric(unit=metric.unit, values=tuple(float(run.summary[name]) for run in runs))
        for name, metric in METRICS.items()
        if metric is not GOODPUT and name not in left_out and all(name in run.summary for run in runs)
    }
    for latency in LATENCIES:
        errors = [percentile_errors(*run.requests.latencies()[latency], tuple(PERCENTILES)) for run in runs]
        for index, statistic in enumerate(PERCENTILES.values()):
            name = metrics.latency(statistic, latency).name
            if name in found:
                found[name] = found[name].model_copy(update={"errors": tuple(each[index] for each in errors)})
    if limits:
        good = tuple(run.requests.meeting(limits) / float(run.summary["duration"]) for run in runs)
        found[GOODPUT.name] = Metric(unit=GOODPUT.unit, values=good)
    return found
