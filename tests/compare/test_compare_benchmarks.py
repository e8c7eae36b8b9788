"""A benchmark against BF16's, load by load, with what speaks against it."""

import numpy as np
import pytest

from pipeline.compare.benchmarks import SpeedCell, benchmark, headline_cell
from pipeline.compare.comparison import compare
from pipeline.compare.stats.repeats import Change, Repeated, relative_change, summarize
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.records import Record, Speed

METRIC = "total_token_throughput"


def load(
    name: str, values: tuple[float, ...], tokens: tuple[int, ...] = (100, 100, 100), prompts: int = 9
) -> LoadResult:
    return LoadResult(
        name=name,
        request_rate="inf",
        max_concurrency=None,
        num_prompts=prompts,
        metrics={METRIC: Metric(unit="tok/s", values=values)},
        asked=27,
        completed=27,
        failed=0,
        output_tokens=tokens,
    )


def speed(*loads: LoadResult, guards: tuple[Guard, ...] = (), protocol: str = "study", machine: str = "here") -> Speed:
    return Speed(
        machine=machine,
        metrics=loads[-1].metrics,
        asked=27,
        completed=27,
        failed=0,
        protocol=protocol,
        headline=loads[-1].name,
        loads=loads,
        guards=guards,
    )


def record(name: str, *speeds: Speed) -> Record:
    return Record(
        name=name,
        label=name,
        family="baseline" if name == "bf16" else "weights only",
        is_baseline=name == "bf16",
        emulated=(),
        size=Missing(reason="not weighed"),
        speed=speeds[0],
        protocols={each.protocol: each for each in speeds},
        tasks=Missing(reason="not scored"),
    )


BASE, FAST, SAME = (100.0, 101.0, 99.0), (150.0, 151.0, 149.0), (100.5, 99.2, 101.1)


def test_each_load_is_compared_with_its_own_kind() -> None:
    bf16 = record("bf16", speed(load("a", BASE), load("b", FAST)))
    other = record("w4a16", speed(load("a", FAST), load("b", SAME)))
    found = benchmark(other.speed, other, bf16)
    first, second = (row.cells[METRIC] for row in found.loads)
    assert first.change.percent == pytest.approx(50) and first.change.is_clear
    assert second.change.percent < -30 and second.change.is_clear


def at_rate(rate: float, metrics: dict[str, tuple[float, ...]], requests: int = 500) -> LoadResult:
    units = {METRIC: "tok/s", "mean_ttft_ms": "ms", "p90_ttft_ms": "ms", "p99_ttft_ms": "ms"}
    return LoadResult(
        name="rate 0.5 of saturation",
        request_rate=rate,
        max_concurrency=None,
        num_prompts=requests,
        metrics={name: Metric(unit=units[name], values=values) for name, values in metrics.items()},
        asked=3 * requests,
        completed=3 * requests,
        failed=0,
        in_flight=(2.0, 2.5, 3.0),
    )


def test_a_rate_has_no_change_of_throughput_and_latencies_only_at_the_same_rate() -> None:
    """Both served what they were offered, so the variant's rate was 25 % higher by construction."""
    bf16 = record("bf16", speed(at_rate(12.0, {METRIC: BASE, "mean_ttft_ms": BASE})))
    faster = record("w4a16", speed(at_rate(15.0, {METRIC: (125.0, 126.0, 124.0), "mean_ttft_ms": FAST})))
    same = record("w4a16", speed(at_rate(12.0, {METRIC: BASE, "mean_ttft_ms": FAST})))
    rows = compare([bf16, faster], []).rows[1].benchmarks["study"].loads[0].cells
    for name in (METRIC, "mean_ttft_ms"):
        assert rows[name].change == Missing(reason="BF16 was sent requests at another rate (12.0 per second)")
    cells = compare([bf16, same], []).rows[1].benchmarks["study"].loads[0].cells
    assert isinstance(cells[METRIC].change, Missing) and "rate is given" in cells[METRIC].change.reason
    assert cells["mean_ttft_ms"].change.percent == pytest.approx(50)
    headline = headline_cell(same, bf16, METRIC, "tok/s")
    assert isinstance(headline, SpeedCell) and isinstance(headline.change, Missing)


@pytest.mark.parametrize(("requests", "shown"), [(8, ()), (20, ("p90",)), (99, ("p90",)), (100, ("p90", "p99"))])
def test_a_percentile_beyond_the_requests_is_withheld_with_the_reason(requests: int, shown: tuple[str, ...]) -> None:
    metrics = {"mean_ttft_ms": BASE, "p90_ttft_ms": BASE, "p99_ttft_ms": BASE}
    (row,) = compare([record("bf16", speed(at_rate(1.0, metrics, requests)))], []).rows
    (loaded,) = row.benchmarks["study"].loads
    assert (loaded.kind, loaded.in_flight) == ("open", 2.5)
    for statistic, least in (("p90", 20), ("p99", 100)):
        cell = loaded.cells[f"{statistic}_ttft_ms"]
        if statistic in shown:
            assert isinstance(cell, SpeedCell)
        else:
            assert cell == Missing(reason=f"{requests} requests a repeat, {statistic.upper()} needs {least}")
    assert isinstance(loaded.cells["mean_ttft_ms"], SpeedCell)


def test_protocols_are_never_mixed_and_machines_never_compared() -> None:
    bf16 = record("bf16", speed(load("a", BASE)), speed(load("a", FAST), protocol="ladder"))
    other = record("w4a16", speed(load("a", FAST)), speed(load("a", FAST), protocol="ladder"))
    rows = compare([bf16, other], []).rows
    changes = {name: b.loads[0].cells[METRIC].change for name, b in rows[1].benchmarks.items()}
    assert changes["study"].is_clear and not changes["ladder"].is_clear
    elsewhere = record("gptq", speed(load("a", FAST), machine="there"))
    assert "another machine" in headline_cell(elsewhere, bf16, METRIC, "tok/s").change.reason
    unmeasured = record("awq", speed(load("a", FAST), protocol="latency"))
    assert "not measured under latency" in headline_cell(unmeasured, bf16, METRIC, "tok/s").change.reason
    higher = record("fp8", speed(load("a", FAST), load("b", FAST)))
    assert "another load" in headline_cell(higher, bf16, METRIC, "tok/s").change.reason


def test_a_difference_that_may_be_none_is_not_called_one() -> None:
    bf16, other = record("bf16", speed(load("a", BASE))), record("w4a16", speed(load("a", SAME)))
    cell = headline_cell(other, bf16, METRIC, "tok/s")
    assert isinstance(cell, SpeedCell) and isinstance(cell.change, Change)
    assert cell.change.interval.contains(0.0) and not cell.change.is_clear


@pytest.mark.parametrize(("tokens", "passed"), [((100, 100, 101), True), ((110, 100, 100), False)])
def test_drift_of_generated_tokens_marks_the_variant(tokens: tuple[int, ...], passed: bool) -> None:
    bf16, other = record("bf16", speed(load("a", BASE))), record("w4a16", speed(load("a", FAST, tokens)))
    table = compare([bf16, other], [])
    (guard,) = table.rows[1].benchmarks["study"].guards
    assert guard.passed is passed and "generated tokens" in guard.text
    assert bool(table.rows[1].marks) is not passed
    assert any("w4a16, marked: generated tokens" in note for note in table.notes) is not passed


def test_other_prompts_have_no_drift() -> None:
    bf16 = record("bf16", speed(load("a", BASE)))
    other = record("w4a16", speed(load("a", FAST, (900, 900, 900), prompts=8)))
    assert benchmark(other.speed, other, bf16).guards == ()


def test_a_failing_guard_marks_only_its_own_load() -> None:
    def guarded(where: str | None) -> Record:
        guard = Guard(name="prefix cache", passed=False, text="9 tokens were there", load=where)
        return record("w4a16", speed(load("a", BASE), load("b", BASE), guards=(guard,)))

    assert compare([guarded("a")], []).rows[0].marks == ()
    for where in ("b", None):
        assert compare([guarded(where)], []).rows[0].marks == ("prefix cache: 9 tokens were there",)


def test_repeats_that_agree_by_chance_are_no_surer_than_their_requests() -> None:
    lucky = summarize("ms", [10.0, 10.001, 10.002], [1.0, 1.0, 1.0])
    assert isinstance(lucky, Repeated) and lucky.interval is not None
    assert lucky.interval.high - lucky.interval.low == pytest.approx(2 * 1.96 / 3**0.5, rel=1e-3)
    assert lucky.median == 10.001
    change = relative_change([10.0, 10.0, 10.0], [9.8, 9.8, 9.8], [1.0] * 3, [1.0] * 3)
    assert isinstance(change, Change) and change.interval is not None and not change.is_clear
    unknown = summarize("ms", [10.0, 10.001, 10.002], [1.0, None, 1.0])
    assert isinstance(unknown, Repeated) and unknown.interval.high < 10.01


@pytest.mark.parametrize("between", [0.0, 0.05])
def test_an_interval_of_a_percentile_covers_it_as_often_as_it_says(between: float) -> None:
    """Requests of a known distribution, with and without noise between repeats, three repeats of 200 requests."""
    dice, inside, runs = np.random.default_rng(5), 0, 1500
    for _ in range(runs):
        repeats = dice.exponential(100.0, (3, 200)) * np.exp(dice.normal(0, between, (3, 1)))
        # Of an exponential: scale over the root of the number, at the median.
        found = summarize("ms", np.median(repeats, axis=1).tolist(), [100 / 200**0.5] * 3)
        truth = 100 * np.log(2)
        inside += isinstance(found, Repeated) and found.interval is not None and found.interval.contains(truth)
    assert inside / runs > 0.94
