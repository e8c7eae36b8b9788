"""The metrics of a benchmark: their names, titles and directions, and percentiles that few requests do not support."""

import pytest

from pipeline.results.metrics import HEADLINE, METRICS, PERCENTILES, title, withheld


@pytest.mark.parametrize(
    ("name", "shown", "unit", "better"),
    [
        ("total_token_throughput", "Throughput", "tok/s", "higher"),
        ("request_throughput", "Request throughput", "req/s", "higher"),
        ("request_goodput", "Goodput", "req/s", "higher"),
        ("mean_ttft_ms", "Mean TTFT", "ms", "lower"),
        ("median_itl_ms", "Median ITL", "ms", "lower"),
        ("p99_e2el_ms", "P99 E2EL", "ms", "lower"),
    ],
)
def test_a_metric_has_vllms_name_and_a_title(name: str, shown: str, unit: str, better: str) -> None:
    metric = METRICS[name]
    assert (metric.name, title(name), metric.unit, metric.better) == (name, shown, unit, better)


def test_a_metric_of_another_release_is_called_by_its_name() -> None:
    assert title("mean_joules") == "mean_joules"


def test_the_comparison_has_a_throughput_and_two_latencies() -> None:
    assert [metric.name for metric in HEADLINE] == ["total_token_throughput", "mean_ttft_ms", "mean_tpot_ms"]


def test_percentiles_are_called_as_vllm_calls_them() -> None:
    assert PERCENTILES == {50: "median", 90: "p90", 99: "p99"}


@pytest.mark.parametrize(
    ("requests", "lacking"), [(100, {}), (99, {"p99": 100}), (20, {"p99": 100}), (19, {"p90": 20, "p99": 100})]
)
def test_percentiles_beyond_few_requests_are_withheld(requests: int, lacking: dict[str, int]) -> None:
    assert withheld(requests) == {
        f"{statistic}_{name}_ms": f"{requests} requests a repeat, {statistic.upper()} needs {least}"
        for statistic, least in lacking.items()
        for name in ("ttft", "tpot", "itl", "e2el")
    }
