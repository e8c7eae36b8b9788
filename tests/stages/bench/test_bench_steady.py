"""The part of a load that is analysed: without the ramp of an empty server and the drain of one that empties."""

from dataclasses import replace

import numpy as np
import pytest
from support.step_server import StepServer

from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests
from pipeline.stages.bench.steady import guards, steady

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
