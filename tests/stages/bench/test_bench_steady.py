"""The part of a load that is analysed: without the ramp of an empty server and the drain of one that empties."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.step_server import StepServer

from pipeline.stages.bench.client import Run
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests
from pipeline.stages.bench.steady import Steady, guards, steady

SERVER = StepServer()


def closed(slots: int, per_slot: int, is_cut: bool = True) -> Load:
    return Load(name="level", num_prompts=per_slot * slots, max_concurrency=slots, is_cut=is_cut)


def rows(starts: list[float], latencies: list[float]) -> Requests:
    number = len(starts)
    return Requests(
        input_lens=np.full(number, 5),
        output_lens=np.full(number, 3),
        good=np.ones(number, np.bool_),
        ttft=np.full(number, 0.1),
        latency=np.array(latencies),
        start=np.array(starts),
        itl=np.arange(2.0 * number),
        itl_counts=np.full(number, 2),
    )


@pytest.mark.parametrize("slots", [16, 256])
def test_a_level_is_measured_without_ramp_and_drain(slots: int) -> None:
    """As a whole, 6 requests a slot are 11 to 17 % below the throughput of a long load."""
    long = closed(slots, 400 if slots == 16 else 50)
    true = steady(long, SERVER.send(long, 5))
    whole, cut = [], []
    for seed in range(12):
        requests = SERVER.send(closed(slots, 6), seed)
        whole.append(steady(closed(slots, 6, is_cut=False), requests).summary()["total_token_throughput"])
        cut.append(steady(closed(slots, 6), requests).summary()["total_token_throughput"])
    reached = true.summary()["total_token_throughput"]
    assert np.mean(whole) < 0.92 * reached
    assert np.mean(cut) == pytest.approx(reached, rel=0.05)
    assert true.in_flight == pytest.approx(slots, rel=0.01)


def test_requests_in_flight_are_counted_by_their_own_times() -> None:
    requests = rows([0.0, 1.0, 2.0, 3.0], [2.0, 1.0, 2.0, 1.0])
    found = steady(Load(name="all", num_prompts=4), requests)
    assert (found.begin, found.end) == (0.0, 4.0)
    assert found.in_flight == pytest.approx((2 + 1 + 2 + 1) / 4)
    assert found.completed == 4


def test_the_first_two_and_the_last_request_of_each_slot_are_cut() -> None:
    requests = rows([float(i) for i in range(10)], [1.0] * 10)
    found = steady(Load(name="one", num_prompts=10, max_concurrency=1, is_cut=True), requests)
    assert list(found.requests.start) == [2, 3, 4, 5, 6, 7, 8]
    assert (found.begin, found.end) == (2.0, 9.0)
    assert found.summary()["request_throughput"] == pytest.approx(1.0)
    assert list(found.requests.itl) == list(np.arange(4.0, 18.0)), "the gaps of the chosen requests"


def test_an_open_load_is_cut_by_time() -> None:
    requests = rows([float(i) for i in range(101)], [0.5] * 101)
    load = Load(name="rate", num_prompts=101, request_rate=1.0, is_cut=True, cut_s=10.0)
    found = steady(load, requests)
    assert (found.begin, found.end) == (10.0, 90.0)
    assert list(found.requests.start) == [float(i) for i in range(10, 90)]
    assert found.completed_share(1.0) == pytest.approx(1.0)
    assert found.completed_share(2.0) == pytest.approx(0.5), "the client sent half of what it was asked to"


def test_a_load_that_is_not_cut_or_too_small_is_whole() -> None:
    requests = rows([0.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    for load in (closed(2, 2), Load(name="x", num_prompts=3, request_rate=2.0, is_cut=True, cut_s=1.0)):
        assert len(steady(load, requests).requests.start) == 3


def test_figures_of_a_whole_load_are_vllms() -> None:
    requests = SERVER.send(closed(16, 6), 3)
    found = steady(closed(16, 6, is_cut=False), requests).summary()
    seconds = float((requests.start + requests.latency).max())
    assert found["output_throughput"] == pytest.approx(requests.output_lens.sum() / seconds)
    assert found["mean_ttft_ms"] == pytest.approx(1000 * requests.ttft.mean())
    assert found["p90_e2el_ms"] == pytest.approx(1000 * np.percentile(requests.latency, 90))


def test_a_level_whose_slots_were_empty_fails_its_guard() -> None:
    busy = rows([0.0, 0.0, *(float(1 + i // 2) for i in range(14))], [1.0] * 16)
    idle = rows([0.0, 0.0, *(float(1 + i) for i in range(14))], [1.0] * 16)
    load = Load(name="two", num_prompts=16, max_concurrency=2, is_cut=True)
    for requests, passed in ((busy, True), (idle, False)):
        (guard,) = guards(load, [steady(load, requests)])
        assert (guard.name, guard.passed) == ("requests in flight", passed)


def test_a_rate_that_is_not_completed_and_a_short_ramp_fail_their_guards() -> None:
    for slots, done in ((1024, True), (16, False)):
        load = Load(name="rate", num_prompts=1200, request_rate=20.0, is_cut=True, cut_s=10.0)
        found = {
            guard.name: guard.passed for guard in guards(load, [steady(load, StepServer(slots=slots).send(load, 1))])
        }
        assert found == {"completions": done, "ramp": done}
    assert guards(Load(name="single", num_prompts=9), []) == []


def test_a_small_load_may_complete_a_little_less_by_chance() -> None:
    """22 of 25 with two in flight is chance; the same share of 2,500 is not."""
    for number, missing, passed in ((25, 3, True), (2500, 300, False)):
        starts = [0.1 * i for i in range(number)]
        latencies = [0.2] * (number - missing) + [1000.0] * missing
        found = steady(
            Load(name="r", num_prompts=number, request_rate=10.0, is_cut=True, cut_s=0.0), rows(starts, latencies)
        )
        small = replace(found, in_flight=2.0)
        assert small.completed_share(10.0) < 0.95
        assert small.is_completed(10.0) is passed


def test_the_figures_of_a_part_are_by_hand() -> None:
    """Three of four requests were answered, of 5 and 3 tokens each, in 4 s; latencies of 1, 2 and 3 s."""
    requests = replace(
        rows([0.0, 0.5, 1.0, 2.0], [1.0, 2.0, 3.0, 9.0]),
        good=np.array([True, True, True, False]),
        ttft=np.array([0.1, 0.2, 0.6, 5.0]),
    )
    part = Steady(requests=requests, begin=10.0, end=14.0, in_flight=1.0, completed=3, sent=1.0)
    found = part.summary()
    assert (part.seconds, found["duration"]) == (4.0, 4.0)
    assert (found["request_throughput"], found["output_throughput"]) == (3 / 4, 9 / 4)
    assert found["total_token_throughput"] == (9 + 15) / 4
    assert found["mean_e2el_ms"] == 2000 and found["median_e2el_ms"] == 2000
    assert found["std_e2el_ms"] == pytest.approx(1000 * (2 / 3) ** 0.5)
    assert found["p90_e2el_ms"] == pytest.approx(2800) and found["p99_e2el_ms"] == pytest.approx(2980)
    assert found["mean_ttft_ms"] == pytest.approx(300) and found["median_ttft_ms"] == pytest.approx(200)
    # (latency - first token) / 2 further tokens.
    assert found["median_tpot_ms"] == pytest.approx(900) and found["mean_tpot_ms"] == pytest.approx(850)
    # Gaps of 0 to 5 s of the answered requests.
    assert found["mean_itl_ms"] == pytest.approx(2500)
    none = replace(part, requests=requests.where(np.zeros(4, np.bool_))).summary()
    assert none["mean_ttft_ms"] == none["p99_e2el_ms"] == none["request_throughput"] == 0


def test_a_part_keeps_what_is_no_figure_of_the_whole() -> None:
    part = Steady(requests=rows([0.0], [1.0]), begin=0.0, end=2.0, in_flight=1.0, completed=1, sent=1.0)
    whole = Run({"duration": 9.0, "completed": 5, "p95_ttft_ms": 1.0, "mean_tpot_ms": 1.0, "date": "x"}, part.requests)
    made = part.run(whole)
    assert (made.summary["duration"], made.summary["completed"], made.summary["date"]) == (2.0, 5, "x")
    assert "p95_ttft_ms" not in made.summary and made.summary["mean_tpot_ms"] == pytest.approx(450)
    assert made.requests is part.requests


def test_the_share_that_is_completed_is_of_what_the_client_sent() -> None:
    part = Steady(requests=rows([0.0] * 8, [1.0] * 8), begin=0.0, end=4.0, in_flight=2.0, completed=6, sent=1.5)
    assert part.completed_share(2.0) == pytest.approx(1.5 / 2 * 6 / 8)
    assert part.completed_share(1.0) == pytest.approx(6 / 8), "faster than asked is no more than all"
    nothing = replace(part, requests=part.requests.where(np.zeros(8, np.bool_)), completed=0)
    assert nothing.completed_share(1.0) == 0 and not nothing.is_completed(1.0)


@pytest.mark.parametrize(
    ("in_flight", "completed", "passed"), [(0.0, 95, True), (0.0, 94, False), (8.0, 92, True), (8.0, 91, False)]
)
def test_two_standard_deviations_of_the_number_in_flight_are_chance(
    in_flight: float, completed: int, passed: bool
) -> None:
    """Of 100 arrivals 95 % suffice; with 8 in flight, 100 less 2 sqrt(2 * 8) = 92."""
    requests = rows([0.0] * 100, [1.0] * 100)
    part = Steady(requests=requests, begin=0.0, end=1.0, in_flight=in_flight, completed=completed, sent=100.0)
    assert part.is_completed(100.0) is passed


def test_a_closed_load_is_cut_only_where_something_is_left() -> None:
    """Ramp and drain of one slot take three requests: of four one is left, of three none, and none without time."""
    level = Load(name="one", num_prompts=9, max_concurrency=1, is_cut=True)
    four = steady(level, rows([0.0, 1.0, 2.0, 5.0], [1.0] * 4))
    assert list(four.requests.start) == [2.0] and (four.begin, four.end) == (2.0, 5.0)
    assert (four.in_flight, four.completed, four.sent) == (pytest.approx(1 / 3), 2, 3 / 5)
    three = steady(level, rows([0.0, 1.0, 2.0], [1.0] * 3))
    assert len(three.requests.start) == 3 and (three.begin, three.end, three.completed) == (0.0, 3.0, 3)
    at_once = steady(level, rows([0.0, 0.0, 1.0, 1.0, 1.0], [1.0] * 5))
    assert len(at_once.requests.start) == 5 and at_once.end == 2.0
    # Requests are cut in the order in which they were sent, whatever their order in the file.
    mixed = steady(level, rows([5.0, 2.0, 0.0, 1.0, 3.0], [1.0] * 5))
    assert list(mixed.requests.start) == [2.0, 3.0] and (mixed.begin, mixed.end) == (2.0, 5.0)
    two = steady(
        Load(name="two", num_prompts=9, max_concurrency=2, is_cut=True), rows([float(i) for i in range(9)], [1.5] * 9)
    )
    assert list(two.requests.start) == [4.0, 5.0, 6.0] and (two.begin, two.end) == (4.0, 7.0)
    # 3.5 to 5.5 from 4 on, 4 to 5.5, 5 to 6.5, 6 to 7.
    assert two.in_flight == pytest.approx((0.5 + 1.5 + 1.5 + 1.0) / 3)
    assert two.completed == 3, "those that ended at 4.5, 5.5 and 6.5"
    whole = steady(replace_cut(level), rows([0.0, 1.0, 2.0, 5.0], [1.0] * 4))
    assert len(whole.requests.start) == 4


def replace_cut(load: Load) -> Load:
    return load.model_copy(update={"is_cut": False})


def test_an_open_load_is_cut_only_where_time_is_left() -> None:
    load = Load(name="rate", num_prompts=9, request_rate=1.0, is_cut=True, cut_s=2.0)
    found = steady(load, rows([0.0, 1.0, 2.0, 2.5, 5.0], [1.0] * 5))
    # Sent at 2 and before 3; those sent at 1 and 2 were answered at 2 and 3.
    assert list(found.requests.start) == [2.0, 2.5] and (found.begin, found.end) == (2.0, 3.0)
    assert found.completed == 1 and found.sent == 4 / 5
    assert found.in_flight == pytest.approx(1.0 + 0.5)
    for last in (4.0, 3.5):
        whole = steady(load, rows([0.0, 1.0, last], [1.0] * 3))
        assert len(whole.requests.start) == 3 and whole.end == last + 1
    later = steady(load, rows([10.0, 11.0, 12.5, 15.0], [1.0] * 4))
    assert list(later.requests.start) == [12.5] and (later.begin, later.end) == (12.0, 13.0)
    assert list(steady(replace_cut(load), rows([0.0, 1.0, 9.0], [1.0] * 3)).requests.start) == [0.0, 1.0, 9.0]


@pytest.mark.parametrize(
    ("starts", "sent"), [([0.0, 1.0, 4.0], 0.5), ([3.0, 3.0], 0.0), ([3.0], 0.0), ([2.0, 6.0], 0.25)]
)
def test_requests_are_sent_at_the_rate_of_their_starts(starts: list[float], sent: float) -> None:
    assert steady(Load(name="x", num_prompts=9), rows(starts, [1.0] * len(starts))).sent == sent


def test_failed_requests_are_in_flight_and_not_completed() -> None:
    requests = replace(rows([0.0, 0.0], [2.0, 4.0]), good=np.array([True, False]))
    found = steady(Load(name="x", num_prompts=2), requests)
    assert found.completed == 1 and found.in_flight == pytest.approx(6 / 4)


def test_guards_of_a_load_say_what_they_saw() -> None:
    def part(**changes: Any) -> Steady:
        own = {"requests": rows([0.0] * 100, [1.0] * 90 + [9.0] * 10), "begin": 0.0, "end": 10.0, "in_flight": 0.0}
        return Steady(**{**own, "completed": 95, "sent": 10.0, **changes})

    open_load = Load(name="rate 10/s", num_prompts=9, request_rate=10.0, is_cut=True, cut_s=1.0)
    done, ramp = guards(open_load, [part(), part(completed=97)])
    assert done.text == "95 % of the offered 10 requests per second were completed"
    assert (done.passed, done.load, ramp.passed, ramp.load) == (True, "rate 10/s", False, "rate 10/s")
    assert ramp.text == "1.0 s were cut at either end, P90 of the end-to-end latency is 9.0 s"
    done, ramp = guards(open_load, [part(), part(completed=50)])
    assert done.passed is False and done.text.startswith("50 % of the offered")
    _, ramp = guards(open_load.model_copy(update={"cut_s": 9.0}), [part()])
    assert ramp.passed is True
    level = Load(name="concurrency 10", num_prompts=9, max_concurrency=10, is_cut=True)
    for in_flight, passed in ((9.0, True), (8.99, False)):
        (guard,) = guards(level, [part(in_flight=in_flight), part(in_flight=10.0)])
        assert (guard.name, guard.passed, guard.load) == ("requests in flight", passed, "concurrency 10")
        assert guard.text == "9.0 of 10 requests in flight on average in the steady part"
    assert guards(Load(name="at once", num_prompts=9, is_cut=True), [part()]) == []
    assert guards(replace_cut(level), [part()]) == []
