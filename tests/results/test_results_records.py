"""Measurements as plain data: what cannot be compared is refused, and what is derived is counted."""

from typing import Any

import numpy as np
import pytest

from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult, Metric
from pipeline.results.records import DivergenceSums, Logprobs, Record, Speed


def logprobs(**changes: Any) -> Logprobs:
    own: dict[str, Any] = {
        "sequence": np.array([0, 0, 2], np.int32),
        "position": np.array([1, 3, 0], np.int32),
        "token": np.array([5, 6, 7], np.int32),
        "logprob": np.array([-1.0, -2.0, -3.0], np.float32),
        "top_ids": np.zeros((3, 2), np.int32),
        "top_logprobs": np.full((3, 2), -1.0, np.float32),
    }
    return Logprobs(**{**own, **changes})


def test_tokens_in_the_order_of_the_text_are_taken() -> None:
    assert len(logprobs().token) == 3
    one = {name: getattr(logprobs(), name)[:1] for name in vars(logprobs())}
    assert len(Logprobs(**one).token) == 1


@pytest.mark.parametrize(
    ("sequence", "position"),
    [
        ([0, 0, 2], [1, 1, 0]),  # The same token twice.
        ([0, 0, 2], [3, 1, 0]),
        ([0, 2, 0], [1, 0, 3]),
        ([1, 0, 0], [0, 1, 2]),
    ],
)
def test_tokens_in_another_order_are_refused(sequence: list[int], position: list[int]) -> None:
    with pytest.raises(ValueError, match="not in the order of the text"):
        logprobs(sequence=np.array(sequence, np.int32), position=np.array(position, np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["logprob", "top_logprobs"])
def test_a_single_value_that_is_not_finite_is_refused(name: str, value: float) -> None:
    spoiled = getattr(logprobs(), name).copy()
    spoiled.flat[1] = value
    with pytest.raises(ValueError, match="a log-probability is not finite"):
        logprobs(**{name: spoiled})


@pytest.mark.parametrize("name", ["sequence", "position", "token", "logprob"])
def test_columns_of_unequal_length_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no tokens, or columns of unequal length"):
        logprobs(**{name: getattr(logprobs(), name)[:-1]})


@pytest.mark.parametrize(
    "changes",
    [
        {"top_ids": np.zeros((2, 2), np.int32), "top_logprobs": np.zeros((2, 2), np.float32)},
        {"top_ids": np.zeros((3, 1), np.int32)},
        {"top_ids": np.zeros((3, 0), np.int32), "top_logprobs": np.zeros((3, 0), np.float32)},
    ],
)
def test_the_likeliest_tokens_are_a_row_for_each_token(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a row for each token"):
        logprobs(**changes)


def test_no_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Logprobs(**{name: getattr(logprobs(), name)[:0] for name in vars(logprobs())})


def divergence(**changes: Any) -> DivergenceSums:
    own = {name: np.full((2, 4), 3.0) for name in ("tokens", "kl", "agrees", "lost")}
    facts = {"reference": "", "worst": 1.0, "perplexity": 9.0, "top_k": 20, "top_probability": 0.9}
    return DivergenceSums(**{**own, **facts, **changes})


SUMS = ("tokens", "kl", "agrees", "lost")


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_the_same_sequences_and_quarters(name: str) -> None:
    for other in (np.ones((3, 4)), np.ones((2, 3)), np.ones(8)):
        with pytest.raises(ValueError, match="sums of unequal number"):
            divergence(**{name: other})
    for none in (np.empty((0, 4)), np.ones(8), np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match="no sequences"):
            divergence(**dict.fromkeys(SUMS, none))


@pytest.mark.parametrize("name", [*SUMS, "worst", "perplexity", "top_probability"])
def test_a_sum_that_is_not_finite_is_refused(name: str) -> None:
    spoiled = np.full((2, 4), 3.0)
    spoiled[1, 2] = np.inf
    with pytest.raises(ValueError, match="a sum is not finite"):
        divergence(**{name: spoiled if name in SUMS else np.nan})


def test_every_sequence_has_a_token() -> None:
    one = np.array([[0.0, 0, 0, 1], [1, 0, 0, 0]])
    assert divergence(tokens=one).tokens is one
    with pytest.raises(ValueError, match="a sequence has no tokens"):
        divergence(tokens=np.array([[0.0, 0, 0, 0], [1, 1, 1, 1]]))


def load(name: str, blocks: tuple[int, ...] = (), devices: tuple[str, ...] = (), **more: Any) -> LoadResult:
    own = {"num_prompts": 50, "request_rate": "inf", "max_concurrency": None, "asked": 9, "completed": 9, "failed": 0}
    metrics = {"mean_ttft_ms": Metric(unit="ms", values=(1.0,))}
    return LoadResult(**{**own, "name": name, "blocks": blocks, "devices": devices, "metrics": metrics, **more})


def speed(*loads: LoadResult, protocol: str = "quick") -> Speed:
    return Speed(machine="here", protocol=protocol, asked=1, completed=1, metrics={}, loads=loads)


def test_blocks_and_devices_are_counted_once_over_all_loads() -> None:
    assert speed().block_count == speed(load("a")).block_count == 1
    assert speed(load("a", (0, 0, 1)), load("b", (1, 2))).block_count == 3
    assert speed(load("a", (4, 4))).block_count == 1
    assert speed(load("a", (), ("x", "y")), load("b", (), ("y", "z"))).devices == ("x", "y", "z")


def test_each_protocols_benchmark_is_counted_once() -> None:
    quick, ladder = speed(protocol="quick"), speed(protocol="ladder")
    missing = Missing(reason="not measured")

    def of(own: Speed | Missing, **protocols: Speed) -> Record:
        facts = {"name": "a", "label": "A", "family": "other", "is_baseline": False, "emulated": ()}
        return Record(**facts, size=missing, tasks=missing, speed=own, protocols=protocols)

    assert of(quick, quick=quick, ladder=ladder).benchmarks == (quick, ladder)
    assert of(missing, quick=quick, ladder=ladder).benchmarks == (quick, ladder)
    assert of(missing).benchmarks == () and of(quick).benchmarks == (quick,)


def test_the_throughput_of_one_gpu_stands_behind_that_of_all() -> None:
    total = Metric(unit="tok/s", values=(100.0, 260.0))
    metrics = {"total_token_throughput": total, "mean_ttft_ms": Metric(unit="ms", values=(8.0, 9.0))}
    whole = speed(load("a", metrics=metrics)).model_copy(update={"metrics": metrics})
    facts = {"name": "a", "label": "A", "family": "other", "is_baseline": False, "emulated": (), "gpus": 4}
    missing = Missing(reason="not measured")
    found = Record(**facts, size=missing, tasks=missing, speed=whole, protocols={"quick": whole}).per_gpu()
    assert isinstance(found.speed, Speed)
    each = total.model_copy(update={"values": (25.0, 65.0)})
    expected = {"total_token_throughput": total, "total_token_throughput_per_gpu": each, **metrics}
    for one in (found.speed, found.protocols["quick"]):
        assert one.metrics == one.loads[0].metrics == expected and list(one.metrics) == list(expected)
    assert Record(**facts, size=missing, tasks=missing, speed=missing).per_gpu().speed == missing


def test_a_load_is_of_a_kind_and_withholds_what_its_requests_do_not_support() -> None:
    assert load("a").kind == "at once" and load("a", max_concurrency=4).kind == "closed"
    assert load("a", request_rate=2.0).kind == load("a", request_rate=2.0, max_concurrency=4).kind == "open"
    assert {name.partition("_")[0] for name in load("a").withheld} == {"p99"}
    assert load("a", analysed=(100, 120)).withheld == {}
    few = load("a", analysed=(100, 19)).withheld
    assert few["p90_ttft_ms"] == "19 requests a repeat, P90 needs 20"
    assert few["p99_e2el_ms"] == "19 requests a repeat, P99 needs 100" and len(few) == 8


def test_only_the_same_load_is_compared_and_no_given_throughput() -> None:
    at_two, at_three = load("a", request_rate=2.0), load("a", request_rate=3.0)
    assert at_two.incomparable("mean_ttft_ms", at_two) is None
    assert at_two.incomparable("mean_ttft_ms", at_three) == "BF16 was sent requests at another rate (3.0 per second)"
    given = "the rate is given, so throughput is not a result"
    assert at_two.incomparable("total_token_throughput", at_two) == given
    assert load("a").incomparable("total_token_throughput", load("a")) is None
    assert load("a", max_concurrency=4).incomparable("output_throughput", load("a", max_concurrency=4)) is None


def test_a_load_is_found_by_its_name() -> None:
    found = speed(load("a"), load("b", asked=5))
    assert found.load("b") == load("b", asked=5)
    assert found.load("c") is None and found.load(None) is None
