"""The highest good rate is found by doubling and bisection, within a bracket whose ends are repeated."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.step_server import StepServer

from pipeline.config.bench import BenchSettings, SloSettings
from pipeline.stages.bench import plan
from pipeline.stages.bench.goodput import CONFIRMATIONS, Bracket, Observation, observe, search, verdict
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.steady import steady

SLO = SloSettings(ttft_ms=500)
FAST = StepServer()
SLOW = StepServer(step=4.5 * FAST.step, sequence=4.5 * FAST.sequence, prompt_token=4.5 * FAST.prompt_token)


def said(met: bool, **facts: float) -> Observation:
    return Observation(met=met, held=met, **{"in_flight": 9.0, **facts})


@given(st.floats(0.01, 1000), st.floats(0.01, 1000), st.integers(1, 40))
def test_the_bracket_holds_the_highest_good_rate(capacity: float, start: float, probes: int) -> None:
    tried = []

    def probe(rate: float, seconds: float) -> Observation:
        tried.append(rate)
        return said(rate <= capacity)

    found = search(probe, start, SloSettings(ttft_ms=500, probes=probes))
    assert 1 <= len(tried) <= probes and tried == [trial.rate for trial in found.trials]
    assert all(rate > 0 for rate in tried)
    assert found.monotone
    assert found.met is None or found.met <= capacity
    assert found.unmet is None or found.unmet > capacity
    if probes == 40:
        assert found.met is not None and found.unmet is not None
        assert found.met_confirmed and found.unmet_confirmed
        assert found.unmet <= 1.1 * found.met * 1.01
        assert tried.count(found.met) == tried.count(found.unmet) == CONFIRMATIONS


def test_a_first_rate_that_meets_the_slo_is_not_the_answer() -> None:
    """The search used to end there: three stored results have the ladder's own throughput as their goodput."""
    found = search(lambda rate, seconds: said(rate <= 39), 13.5, SLO)
    assert found.met is not None and found.unmet is not None
    assert 35 < found.met <= 39 < found.unmet < 43


def test_nothing_is_confirmed_by_one_probe() -> None:
    found = search(lambda rate, seconds: said(rate <= 5), 4, SloSettings(ttft_ms=500, probes=2))
    assert (found.met, found.unmet, found.met_confirmed, found.unmet_confirmed) == (4, 8, False, False)


def test_no_probe_no_claim() -> None:
    found = search(lambda rate, seconds: said(True), 5.0, SloSettings(ttft_ms=500, probes=0))
    assert (found.met, found.unmet, found.met_confirmed, found.unmet_confirmed) == (None, None, False, False)


def test_no_upper_end_is_claimed_where_every_rate_met_it() -> None:
    found = search(lambda rate, seconds: said(True), 5.0, SloSettings(ttft_ms=500, probes=4))
    assert (found.met, found.unmet) == (40, None)


def test_a_limit_that_a_single_request_breaks_ends_the_search() -> None:
    found = search(lambda rate, seconds: said(False, in_flight=0.6), 5.0, SLO)
    assert (found.met, found.unmet) == (None, 5.0)
    assert len(found.trials) == CONFIRMATIONS


def test_an_end_with_both_outcomes_moves_outward() -> None:
    outcomes = {8.0: iter([True, False] + [False] * 9)}

    def probe(rate: float, seconds: float) -> Observation:
        return said(next(outcomes[rate]) if rate in outcomes else rate < 8)

    found = search(probe, 8.0, SLO)
    assert found.met is not None and found.met < 8 and found.met_confirmed
    assert found.unmet is not None and found.unmet > 8 and found.unmet_confirmed


def test_a_met_rate_above_an_unmet_one_is_reported_and_lies_in_the_bracket() -> None:
    """Between 9 and 10 the server is slow, and good again up to 14: seen by the probe beyond the upper end."""
    found = search(lambda rate, seconds: said(rate < 9 or 10 < rate < 14), 4.6, SLO)
    assert not found.monotone
    assert found.met is not None and found.met < 9
    assert found.unmet is not None and found.unmet > 14


def three(*ratios: float) -> list[Observation]:
    """Probes whose requests all have a multiple of the limit of 500 ms."""
    return [
        Observation(
            met=ratio <= 1,
            held=ratio <= 1,
            seen={"ttft_ms": 500 * ratio},
            values={"ttft_ms": np.full(200, 500 * ratio)},
        )
        for ratio in ratios
    ]


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ((0.99,), True),
        ((1.01, 1.2), False),
        ((0.9, 1.1), None),
        ((0.90, 0.91, 0.92), True),
        ((0.80, 0.99, 0.90), None),
        ((1.20, 1.21, 1.19), False),
        ((1.2, math.inf, 1.2), False),
    ],
)
def test_three_probes_tell_where_their_spread_does_not_reach_the_limit(
    ratios: tuple[float, ...], told: bool | None
) -> None:
    assert verdict(three(*ratios), SLO) is told


def test_a_queue_that_grows_is_not_met_whatever_its_latencies() -> None:
    growing = [replace(each, met=False) for each in three(0.5, 0.5, 0.5)]
    assert verdict(growing, SLO) is False


def test_the_number_of_requests_of_a_probe_is_that_of_a_poisson_process(settings) -> None:
    bench = settings("bench=ladder").bench
    numbers = [plan.probe(bench, 10.0, 60.0, index).num_prompts for index in range(400)]
    assert np.mean(numbers) == pytest.approx(600, abs=5)
    assert np.var(numbers) == pytest.approx(600, rel=0.25)
    load = plan.probe(bench, 10.0, 60.0, 3)
    assert load.num_prompts / float(load.request_rate) == pytest.approx(60, rel=1e-3)
    assert load == plan.probe(bench, 10.0, 60.0, 3) and load.cut_s == 6


def test_a_rate_beyond_the_upper_end_is_tried_once() -> None:
    found = search(lambda rate, seconds: said(rate < 7.9), 4, SLO)
    assert found.unmet == 8 and found.monotone
    assert [trial.rate for trial in found.trials if trial.rate > 8] == [12]


def test_a_probe_lasts_ten_times_the_latency_that_it_sees() -> None:
    asked: list[tuple[float, float]] = []

    def probe(rate: float, seconds: float) -> Observation:
        asked.append((rate, seconds))
        return said(rate <= 10, e2el_s=12.0)

    search(probe, 8.0, SLO)
    assert asked[0] == (8.0, 60.0) and asked[1] == (8.0, 120.0), "too short to be a steady state: sent again"
    assert all(seconds >= 120 for _, seconds in asked[1:])


def test_a_slow_rate_is_probed_until_it_has_enough_requests() -> None:
    asked: list[tuple[float, float]] = []

    def probe(rate: float, seconds: float) -> Observation:
        asked.append((rate, seconds))
        return said(rate <= 0.5)

    search(probe, 0.5, SLO)
    assert all(rate * seconds * (1 - 2 * plan.PROBE_CUT) >= 200 * 0.999 for rate, seconds in asked)


def test_the_offered_rate_must_be_completed(settings) -> None:
    """At three times its capacity a server without a limit on the first token holds every other one, and yet fails."""
    server = StepServer(slots=16)
    load = plan.probe(settings("bench=ladder").bench, 30.0, 60.0, 0)
    seen = observe(steady(load, server.send(load, 1)), load, {"tpot_ms": 100}, 99)
    assert seen.held and not seen.met and seen.completed < 0.6


def test_failed_requests_meet_no_slo(settings) -> None:
    load = plan.probe(settings("bench=ladder").bench, 10.0, 60.0, 0)
    requests = FAST.send(load, 1)
    bad = requests.where(np.ones(len(requests.start), np.bool_))
    bad.good[: len(bad.good) // 2] = False
    assert observe(steady(load, requests), load, {"ttft_ms": 500}, 99).met
    assert not observe(steady(load, bad), load, {"ttft_ms": 500}, 99).held


def searched(server: StepServer, limits: dict[str, float], start: float, bench: BenchSettings) -> Bracket:
    numbers = iter(range(1000))

    def probe(rate: float, seconds: float) -> Observation:
        load = plan.probe(bench, rate, seconds, next(numbers))
        return observe(steady(load, server.send(load, load.seed(bench, 0))), load, limits, 99)

    return search(probe, start, SloSettings(**limits))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "limits", "saturation", "truth"),
    [
        (FAST, {"ttft_ms": 500.0, "tpot_ms": 25.0}, 27.0, 39.52),
        (FAST, {"ttft_ms": 500.0, "tpot_ms": 10.0}, 27.0, 21.905),
        (SLOW, {"ttft_ms": 2000.0, "tpot_ms": 200.0}, 6.2, 10.05),
    ],
)
def test_the_bracket_holds_the_truth_on_a_step_model_server(
    settings, server: StepServer, limits: dict[str, float], saturation: float, truth: float
) -> None:
    """In 11 of 12 searches, each from another first rate; bisection below a short ladder's saturation held it in none.

    The truth is the rate at which the P99 of TPOT, a mean over 6 loads of 50,000 requests without the first and last
    2,000, is the limit, interpolated between four rates 2 % apart.
    """
    bench = settings("bench=ladder").bench
    starts = saturation / 2 * 2 ** np.random.default_rng(1).uniform(-0.5, 0.5, 12)
    found = [
        searched(server, limits, start, bench.model_copy(update={"seed": 100_000 * index}))
        for index, start in enumerate(starts)
    ]
    held = [each.met is not None and each.unmet is not None and each.met <= truth <= each.unmet for each in found]
    assert sum(held) >= 11
    assert sum(each.met_confirmed and each.unmet_confirmed for each in found) >= 11
    widths = [each.unmet / each.met for each in found if each.met and each.unmet]
    assert np.median(widths) < 1.25


@pytest.mark.slow
def test_the_truth_of_the_step_model_server_is_what_the_searches_are_held_against() -> None:
    """Within 1 %, by two loads of 50,000 requests a rate."""
    for rate, limit, server in ((39.52, 25.0, FAST), (21.905, 10.0, FAST), (10.05, 200.0, SLOW)):
        load = Load(name="long", num_prompts=50_000, request_rate=rate, is_cut=True, cut_s=2000 / rate)
        seen = [steady(load, server.send(load, seed)).requests.percentile("tpot_ms", 99) for seed in (7001, 7002)]
        # The P99 grows about twice as fast as the rate at 25 ms, as fast at 10 ms, and six times as fast at 200 ms.
        assert np.mean(seen) == pytest.approx(limit, rel=0.07)


@pytest.mark.parametrize(
    ("probes", "rates"),
    [
        # Doubled, bisected to 10 %, and both ends sent twice more.
        (9, [4, 8, 6, 5, 5.5, 5, 5, 5.5, 5.5]),
        # One probe less leaves none for a narrower bracket: what is left confirms the ends.
        (8, [4, 8, 6, 5, 5, 5, 6, 6]),
        (40, [4, 8, 6, 5, 5.5, 5, 5, 5.5, 5.5]),
    ],
)
def test_rates_are_tried_in_order(probes: int, rates: list[float]) -> None:
    found = search(lambda rate, seconds: said(rate <= 5), 4, SloSettings(ttft_ms=500, probes=probes, resolution=0.1))
    assert [trial.rate for trial in found.trials] == rates
    assert found.met_confirmed and found.unmet_confirmed and found.monotone


def test_a_first_rate_that_does_not_meet_the_slo_is_halved() -> None:
    found = search(lambda rate, seconds: said(rate <= 1.6), 8, SloSettings(ttft_ms=500, probes=9, resolution=0.1))
    assert [trial.rate for trial in found.trials] == [8, 4, 2, 1, 1.5, 1.5, 1.5, 2, 2]


def test_a_bracket_is_narrowed_at_both_sides_of_the_rates_that_do_not_tell() -> None:
    """13 and 14 fail once and succeed then: the lower side is within 10 %, the upper one, 14 to 16, is not."""
    tried: list[float] = []

    def probe(rate: float, seconds: float) -> Observation:
        tried.append(rate)
        return said(rate <= 12 or (rate in (13, 14) and tried.count(rate) > 1))

    found = search(probe, 8, SloSettings(ttft_ms=500, probes=20, resolution=0.1))
    assert tried == [8, 16, 12, 14, 13, 12, 12, 13, 14, 15, 15, 15]
    assert (found.met, found.unmet) == (12, 15) and found.met_confirmed and found.unmet_confirmed
    assert not found.monotone, "13 and 14 met it above rates that did not"


def test_the_end_of_a_search_without_a_good_rate_is_confirmed_once() -> None:
    """Requests that are served alone and fail: 5 is sent three times, and no lower rate."""
    found = search(lambda rate, seconds: said(False, in_flight=0.99), 5.0, SLO)
    assert [trial.rate for trial in found.trials] == [5, 5, 5] and found.unmet_confirmed and not found.met_confirmed
    busy = search(lambda rate, seconds: said(False, in_flight=1.0), 5.0, SloSettings(ttft_ms=500, probes=3))
    assert [trial.rate for trial in busy.trials] == [5, 2.5, 1.25]


def test_a_probe_that_is_long_enough_within_a_tenth_counts() -> None:
    """Sixty seconds hold ten latencies of 6 s, and of 6.6 s with the slack of a tenth."""
    for e2el_s, number in ((6.0, 1), (6.5, 1), (6.7, 2)):
        found = search(
            lambda rate, seconds, e2el_s=e2el_s: said(True, e2el_s=e2el_s), 8.0, SloSettings(ttft_ms=500, probes=2)
        )
        assert [trial.rate for trial in found.trials].count(8.0) == number
        assert found.trials[0].counts is (number == 1) and found.trials[-1].counts


def test_a_queue_that_grows_is_sent_no_second_time() -> None:
    found = search(lambda rate, seconds: Observation(met=False, held=False, in_flight=9.0, e2el_s=99.0), 8.0, SLO)
    assert found.trials[0].counts and found.trials[1].rate == 4


def test_durations_grow_with_the_latency_at_the_nearest_lower_rate() -> None:
    """10 s at a rate of 4 are taken to be 20 s at 8; and 200 requests are analysed of eight tenths of a probe."""
    asked: list[tuple[float, float]] = []

    def probe(rate: float, seconds: float) -> Observation:
        asked.append((rate, seconds))
        return said(rate <= 4, e2el_s=10.0)

    search(probe, 4, SloSettings(ttft_ms=500, probes=4, probe_s=5, prompts=200))
    assert asked[0] == (4, pytest.approx(200 / 4 / 0.8))
    assert asked[1] == (4, pytest.approx(100)), "ten times the latency that was seen"
    assert asked[2] == (8, pytest.approx(200))


def test_an_observation_is_of_the_steady_part(settings) -> None:
    load = plan.probe(settings("bench=ladder").bench, 10.0, 60.0, 0)
    part = steady(load, FAST.send(load, 1))
    seen = observe(part, load, {"ttft_ms": 500, "tpot_ms": 100}, 90)
    assert set(seen.seen) == set(seen.values) == {"ttft_ms", "tpot_ms"}
    assert seen.seen["ttft_ms"] == part.requests.percentile("ttft_ms", 90)
    assert np.array_equal(seen.values["tpot_ms"], part.requests.limited("tpot_ms"))
    assert (seen.in_flight, seen.requests) == (part.in_flight, len(part.requests.start))
    assert seen.completed == part.completed_share(float(load.request_rate))
    assert seen.e2el_s == pytest.approx(part.requests.percentile("e2el_ms", 99) / 1000)
    assert seen.met and seen.held
    # One limit of two that is broken is enough.
    broken = observe(part, load, {"ttft_ms": 500, "tpot_ms": 1}, 90)
    assert not broken.held and not broken.met


def test_a_probe_without_a_request_in_its_steady_part_meets_nothing(settings) -> None:
    load = plan.probe(settings("bench=ladder").bench, 10.0, 60.0, 0)
    part = steady(load, FAST.send(load, 1))
    empty = replace(part, requests=part.requests.where(np.zeros(len(part.requests.start), np.bool_)))
    seen = observe(empty, load, {"ttft_ms": 500}, 90)
    assert (seen.met, seen.held, seen.completed, seen.e2el_s, seen.requests) == (False, False, 0.0, math.inf, 0)


def test_the_tightest_of_several_limits_decides_between_three_probes() -> None:
    """TTFT is far below its limit; TPOT is 1 % below with a spread that explains 2 %, and 10 % below with the same."""
    slo = SloSettings(ttft_ms=500, tpot_ms=100)

    def probes(*tpots: float) -> list[Observation]:
        values = [{"ttft_ms": np.full(100, 50.0), "tpot_ms": np.full(100, tpot)} for tpot in tpots]
        seen = [{"ttft_ms": 50.0, "tpot_ms": tpot} for tpot in tpots]
        return [
            Observation(met=True, held=True, seen=one, values=other) for one, other in zip(seen, values, strict=True)
        ]

    assert verdict(probes(98.0, 99.0, 97.0), slo) is None
    assert verdict(probes(89.0, 90.0, 88.0), slo) is True
    # 2.92 standard errors: of logarithms 1 % apart 2.92 * 0.01 / sqrt(3) = 1.7 % below the limit.
    for middle, told in ((97.4, None), (97.2, True)):
        spread = [middle * math.exp(step) for step in (-0.01, 0.0, 0.01)]
        pooled = [
            replace(each, values={"ttft_ms": np.full(9, 50.0), "tpot_ms": np.array([middle * math.exp(0.01)])})
            for each in probes(*spread)
        ]
        assert verdict(pooled, slo) is told


def test_three_probes_that_broke_the_limits_are_believed_where_one_held_them() -> None:
    """The rate was not completed: latencies say nothing of it."""
    probes = [replace(each, values={"ttft_ms": np.full(200, 505.0)}) for each in three(1.001, 1.2, 1.1)]
    assert verdict(probes, SLO) is None
    probes[0] = replace(probes[0], held=True)
    assert verdict(probes, SLO) is False
