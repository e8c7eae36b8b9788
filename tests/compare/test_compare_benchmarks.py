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


def test_a_load_that_bf16_was_not_measured_under_is_compared_with_nothing() -> None:
    bf16 = record("bf16", speed(load("a", BASE)))
    other = record("w4a16", speed(load("a", FAST), load("b", FAST, (900, 900, 900))))
    found = benchmark(other.speed, other, bf16)
    assert [guard.load for guard in found.guards] == ["a"]
    with_reference, without = (row.cells[METRIC].change for row in found.loads)
    assert isinstance(with_reference, Change)
    assert without == Missing(reason="BF16 was not measured under b")


@pytest.mark.parametrize(
    "reference",
    [Metric(unit="tok/h", values=BASE), Metric(unit="tok/s", values=(float("nan"), 100.0, 101.0))],
    ids=["another unit", "not finite"],
)
def test_a_reference_that_is_no_such_figure_is_not_compared(reference: Metric) -> None:
    of_bf16 = load("a", BASE).model_copy(update={"metrics": {METRIC: reference}})
    bf16, other = record("bf16", speed(of_bf16)), record("w4a16", speed(load("a", FAST)))
    (row,) = benchmark(other.speed, other, bf16).loads
    cell = row.cells[METRIC]
    assert isinstance(cell, SpeedCell) and cell.measured.mean == pytest.approx(150)
    assert cell.change == Missing(reason="BF16 has no such figure to compare with")


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
