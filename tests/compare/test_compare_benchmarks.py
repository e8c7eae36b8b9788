"""A benchmark against BF16's, load by load, with what speaks against it."""

import numpy as np
import pytest

from pipeline.compare.benchmarks import SpeedCell, benchmark, headline_cell
from pipeline.compare.comparison import compare
from pipeline.compare.speed_models import SpeedModels
from pipeline.compare.stats.repeats import Change, Repeated, relative_change, summarize
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.records import Record, Speed

METRIC = "total_token_throughput"


def load(
    name: str,
    values: tuple[float, ...],
    tokens: tuple[int, ...] = (100, 100, 100),
    prompts: int = 9,
    seeds: tuple[int, ...] = (),
    blocks: tuple[int, ...] = (),
    devices: tuple[str, ...] = (),
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
        seeds=seeds,
        blocks=blocks,
        devices=devices,
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


def cell_of(one: Record, bf16: Record, unit: str = "tok/s") -> SpeedCell | Missing:
    return headline_cell(one, bf16, METRIC, unit, SpeedModels([bf16, one]))


BASE, FAST, SAME = (100.0, 101.0, 99.0), (150.0, 151.0, 149.0), (100.5, 99.2, 101.1)


def test_each_load_is_compared_with_its_own_kind() -> None:
    bf16 = record("bf16", speed(load("a", BASE), load("b", FAST)))
    other = record("w4a16", speed(load("a", FAST), load("b", SAME)))
    found = benchmark(other.speed, other, bf16, SpeedModels([bf16, other]))
    first, second = (row.cells[METRIC] for row in found.loads)
    assert first.change.percent == pytest.approx(50, abs=0.01) and first.change.is_clear
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
    assert cells["mean_ttft_ms"].change.percent == pytest.approx(50, abs=0.01)
    headline = headline_cell(same, bf16, METRIC, "tok/s", SpeedModels([bf16, same]))
    assert isinstance(headline, SpeedCell) and isinstance(headline.change, Missing)


@pytest.mark.parametrize("unit", ["tok/h", "tokens/s"])
def test_a_figure_in_another_unit_is_not_shown(unit: str) -> None:
    made = record("bf16", speed(load("a", BASE)))
    assert cell_of(made, made, unit) == Missing(reason=f"measured in tok/s, not {unit}")


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
    assert "another machine" in cell_of(elsewhere, bf16).change.reason
    unmeasured = record("awq", speed(load("a", FAST), protocol="latency"))
    assert "not measured under latency" in cell_of(unmeasured, bf16).change.reason
    higher = record("fp8", speed(load("a", FAST), load("b", FAST)))
    assert "another load" in cell_of(higher, bf16).change.reason


def test_a_difference_that_may_be_none_is_not_called_one() -> None:
    bf16, other = record("bf16", speed(load("a", BASE))), record("w4a16", speed(load("a", SAME)))
    cell = cell_of(other, bf16)
    assert isinstance(cell, SpeedCell) and isinstance(cell.change, Change)
    assert cell.change.interval.contains(0.0) and not cell.change.is_clear


@pytest.mark.parametrize(("tokens", "passed"), [((100, 100, 101), True), ((110, 100, 100), False)])
def test_drift_of_generated_tokens_marks_the_variant(tokens: tuple[int, ...], passed: bool) -> None:
    bf16, other = record("bf16", speed(load("a", BASE))), record("w4a16", speed(load("a", FAST, tokens)))
    table = compare([bf16, other], [])
    (guard,) = table.rows[1].benchmarks["study"].guards
    assert guard.passed is passed and "generated tokens" in guard.text
    assert bool(table.rows[1].marks) is not passed
    assert any("w4a16, unreliable: generated tokens" in note for note in table.notes) is not passed


def test_a_guard_that_failed_for_several_is_noted_once() -> None:
    def guarded(name: str, *seen: str) -> Record:
        guards = tuple(Guard(name="other processes", passed=False, text=text, load=None) for text in seen)
        return record(name, speed(load("a", BASE), guards=guards))

    def noted(*records: Record) -> list[str]:
        return [note for note in compare(records, []).notes if "unreliable" in note]

    assert noted(guarded("bf16", "1 %"), guarded("fp8", "1 %")) == ["bf16 and fp8, unreliable: other processes: 1 %."]
    assert noted(guarded("bf16", "1 %", "2 %")) == ["bf16, unreliable: other processes: 1 %; 2 %."]
    assert noted(guarded("bf16", "1 %"), guarded("fp8", "2 %")) == [
        "bf16 and fp8, unreliable: other processes: each as in the table of guards."
    ]


def test_a_load_that_bf16_was_not_measured_under_is_compared_with_nothing() -> None:
    bf16 = record("bf16", speed(load("a", BASE)))
    other = record("w4a16", speed(load("a", FAST), load("b", FAST, (900, 900, 900))))
    found = benchmark(other.speed, other, bf16, SpeedModels([bf16, other]))
    assert [guard.load for guard in found.guards] == ["a"]
    with_reference, without = (row.cells[METRIC].change for row in found.loads)
    assert isinstance(with_reference, Change)
    assert without == Missing(reason="BF16 was not measured under b")


@pytest.mark.parametrize(
    "reference",
    [
        Metric(unit="tok/h", values=BASE),
        Metric(unit="tokens/s", values=BASE),
        Metric(unit="tok/s", values=(float("nan"), 100.0, 101.0)),
    ],
    ids=["another unit", "another name", "not finite"],
)
def test_a_reference_that_is_no_such_figure_is_not_compared(reference: Metric) -> None:
    of_bf16 = load("a", BASE).model_copy(update={"metrics": {METRIC: reference}})
    bf16, other = record("bf16", speed(of_bf16)), record("w4a16", speed(load("a", FAST)))
    (row,) = benchmark(other.speed, other, bf16, SpeedModels([bf16, other])).loads
    cell = row.cells[METRIC]
    assert isinstance(cell, SpeedCell) and cell.measured.mean == pytest.approx(150)
    assert cell.change == Missing(reason="BF16 has no such figure to compare with")


def test_other_prompts_have_no_drift() -> None:
    bf16 = record("bf16", speed(load("a", BASE)))
    other = record("w4a16", speed(load("a", FAST, (900, 900, 900), prompts=8)))
    assert benchmark(other.speed, other, bf16, SpeedModels([bf16, other])).guards == ()


def test_drift_is_that_of_the_repeats_that_had_the_same_prompts() -> None:
    """A variant without its second block has the first in common with BF16; the second seed's replies are long."""

    def measured(name: str, tokens: tuple[int, ...], seeds: tuple[int, ...]) -> Record:
        return record(name, speed(load("a", FAST[: len(tokens)], tokens, seeds=seeds)))

    def seen(one: Record, bf16: Record) -> list[str]:
        return [guard.text for guard in benchmark(one.speed, one, bf16, SpeedModels([bf16, one])).guards]

    bf16 = measured("bf16", (100, 300, 900), (5, 6, 7))
    same = "from the same prompts"
    assert seen(measured("a", (110, 300), (5, 6)), bf16) == [f"+2.5 % generated tokens against BF16, {same}"]
    assert seen(measured("a", (600, 110), (9, 5)), bf16) == [f"+10.0 % generated tokens against BF16, {same}"]
    assert seen(measured("a", (100, 300, 900), (8, 9, 10)), bf16) == []
    assert seen(measured("a", (100,), (5,)), measured("bf16", (0, 9), (5, 6))) == []


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
    assert np.log(lucky.interval.high / lucky.interval.low) == pytest.approx(2 * 1.96 / 10 / 3**0.5, rel=1e-3)
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


def test_repeats_of_a_seed_are_compared_with_each_other() -> None:
    """The project's own H200, 16 in flight: the change is 43 % at each seed, the seeds lie 37 % apart."""
    bf16 = record("bf16", speed(load("a", (2597.31, 3248.00, 2366.12), seeds=(200, 201, 202))))
    fp8 = record("fp8", speed(load("a", (3744.34, 4576.54, 3407.57), seeds=(200, 201, 202))))
    exact = compare([bf16, fp8], [], tolerance_percent=0.0).rows[1].speed[METRIC].change
    assert exact.percent == pytest.approx(43.0, abs=0.05)
    assert (exact.interval.low, exact.interval.high) == pytest.approx((38.5, 47.7), abs=0.1)
    change = compare([bf16, fp8], []).rows[1].speed[METRIC].change
    assert change.is_clear and change.widened_percent == 2.0
    # The ends lie further out by the tolerance.
    assert (100 + change.interval.low) * 1.02 == pytest.approx(100 + exact.interval.low)
    assert (100 + change.interval.high) / 1.02 == pytest.approx(100 + exact.interval.high)


def test_results_without_seeds_are_compared_as_independent_repeats() -> None:
    bf16 = record("bf16", speed(load("a", (2597.31, 3248.00, 2366.12))))
    fp8 = record("fp8", speed(load("a", (3744.34, 4576.54, 3407.57))))
    assert not compare([bf16, fp8], []).rows[1].speed[METRIC].change.is_clear


def test_one_start_of_each_server_claims_no_difference_within_the_tolerance() -> None:
    bf16, other = record("bf16", speed(load("a", BASE))), record("fp8", speed(load("a", (101.6, 102.6, 100.6))))
    sharp = {"values": (100.0, 100.01, 99.99)}
    near = record("fp8", speed(load("a", tuple(1.015 * v for v in sharp["values"]))))
    change = compare([record("bf16", speed(load("a", sharp["values"]))), near], []).rows[1].speed[METRIC].change
    assert not change.is_clear and change.p_value == 1.0 and "one start of each server" in change.qualification
    assert not compare([bf16, other], []).rows[1].speed[METRIC].change.is_clear


def test_with_two_blocks_the_start_of_a_server_is_the_unit() -> None:
    """Repeats within a start agree to 0.1 %, the starts differ by 4 %: paired by block, t of one degree of freedom."""
    seeds, blocks = (0, 1, 0, 1), (0, 0, 1, 1)
    bf16 = record("bf16", speed(load("a", (100.0, 100.1, 104.0, 104.1), seeds=seeds, blocks=blocks)))
    other = record("fp8", speed(load("a", (110.0, 110.1, 109.0, 109.1), seeds=seeds, blocks=blocks)))
    table = compare([bf16, other], [])
    change = table.rows[1].speed[METRIC].change
    gains = [np.log(110.05 / 100.05), np.log(109.05 / 104.05)]
    assert np.log1p(change.percent / 100) == pytest.approx(np.mean(gains), abs=1e-5)
    half = 12.706 * np.std(gains, ddof=1) / 2**0.5
    assert np.log1p(change.interval.high / 100) == pytest.approx(np.mean(gains) + half, abs=1e-4)
    assert not change.is_clear and change.widened_percent == 0 and not change.qualification
    assert table.starts.control_percent == pytest.approx(4.0, abs=0.01) and table.starts.starts == 2
    # The interval of a mean is no narrower than the starts imply.
    assert table.rows[0].speed[METRIC].measured.interval.high > 110


def test_variants_on_two_devices_are_compared_only_where_a_block_has_both_on_one() -> None:
    here, there, both = ("GPU-1",) * 4, ("GPU-2",) * 4, ("GPU-1", "GPU-1", "GPU-2", "GPU-2")
    seeds, blocks = (0, 1, 0, 1), (0, 0, 1, 1)

    def on(name: str, values: tuple[float, ...], devices: tuple[str, ...]) -> Record:
        return record(name, speed(load("a", values, seeds=seeds, blocks=blocks, devices=devices)))

    slow, fast = (100.0, 101.0, 100.5, 101.5), (150.0, 151.0, 150.5, 152.0)
    apart = compare([on("bf16", slow, here), on("fp8", fast, there)], []).rows[1].speed[METRIC].change
    assert isinstance(apart, Missing) and "another device" in apart.reason
    joined = compare([on("bf16", slow, both), on("fp8", fast, both)], []).rows[1].speed[METRIC].change
    assert isinstance(joined, Change)
    unknown = compare([on("bf16", slow, ("",) * 4), on("fp8", fast, there)], []).rows[1].speed[METRIC].change
    assert isinstance(unknown, Change)


def test_the_intervals_of_several_variants_hold_together() -> None:
    seeds = (0, 1, 2)
    bf16 = record("bf16", speed(load("a", BASE, seeds=seeds)))
    others = [record(f"v{i}", speed(load("a", tuple(v + i / 10 for v in SAME), seeds=seeds))) for i in range(6)]
    alone = compare([bf16, others[0]], [], tolerance_percent=0).rows[1].speed[METRIC].change
    among = compare([bf16, *others], [], tolerance_percent=0)
    change = among.rows[1].speed[METRIC].change
    assert change.percent == pytest.approx(alone.percent) and change.p_value > 0.05
    assert among.smallest_gains[METRIC] > 0 and set(among.smallest_gains_by_load["study"]) == {"a"}


def test_a_figure_that_is_not_above_zero_has_no_ratio() -> None:
    bf16, none = record("bf16", speed(load("a", BASE))), record("fp8", speed(load("a", (0.0, 1.0, 2.0))))
    cell = compare([bf16, none], []).rows[1].speed[METRIC]
    assert cell.measured.mean == 1.0 and cell.measured.interval is None
    assert isinstance(cell.change, Missing) and "above zero" in cell.change.reason
