"""Which figures a load has, and the errors of its percentiles."""

from typing import Any

import numpy as np
import pytest

from pipeline.compare.stats.bootstrap import percentile_errors
from pipeline.results.metrics import METRICS
from pipeline.stages.bench.client import Run
from pipeline.stages.bench.metrics import figures_of
from pipeline.stages.bench.requests import Requests


def run(number: int, failed: int = 0, **more: Any) -> Run:
    """A repeat whose summary has every metric at a value of its own."""
    first = np.linspace(0.1, 0.2, number)
    counts = np.full(number, 2)
    requests = Requests(
        *(np.full(number, 5), np.full(number, 3), np.arange(number) >= failed, first, first + 0.6, first * 0),
        *(np.full(2 * number, 0.3), counts),
    )
    summary = {name: float(place) for place, name in enumerate(METRICS) if name != "request_goodput"}
    return Run(summary | {"duration": 4.0, **more}, requests)


def test_every_metric_of_the_client_is_kept_with_its_unit() -> None:
    found = figures_of([run(100), run(100, mean_ttft_ms=77.0)], {})
    assert set(found) == set(METRICS) - {"request_goodput"}
    assert {name: metric.unit for name, metric in found.items()} == {name: METRICS[name].unit for name in found}
    assert found["mean_ttft_ms"].values == (float(list(METRICS).index("mean_ttft_ms")), 77.0)


def test_percentiles_have_errors_of_their_own_requests() -> None:
    runs = [run(100), run(150)]
    found = figures_of(runs, {})
    with_errors = {name for name, metric in found.items() if metric.errors}
    assert with_errors == {
        f"{each}_{name}_ms" for each in ("median", "p90", "p99") for name in ("ttft", "tpot", "itl", "e2el")
    }
    for place, statistic in enumerate(("median", "p90", "p99")):
        expected = [percentile_errors(*each.requests.latencies()["ttft"], (50, 90, 99))[place] for each in runs]
        assert found[f"{statistic}_ttft_ms"].errors == tuple(expected)


@pytest.mark.parametrize(("answered", "missing"), [(100, set()), (99, {"p99"}), (20, {"p99"}), (19, {"p90", "p99"})])
def test_percentiles_need_answered_requests_in_every_repeat(answered: int, missing: set[str]) -> None:
    found = figures_of([run(200), run(answered + 3, failed=3)], {})
    assert {name.split("_")[0] for name in set(METRICS) - {"request_goodput"} - set(found)} == missing


def test_a_metric_that_one_repeat_lacks_is_left_out() -> None:
    lacking = run(100)
    del lacking.summary["mean_itl_ms"]
    assert "mean_itl_ms" not in figures_of([run(100), lacking], {})


def test_goodput_is_of_the_requests_that_met_the_limits_in_their_time() -> None:
    found = figures_of([run(101), run(101, duration=2.0)], {"ttft_ms": 150.5})["request_goodput"]
    # One a millisecond, from 100 to 200: 51 of 101.
    assert (found.unit, found.values) == ("req/s", (51 / 4, 51 / 2))
