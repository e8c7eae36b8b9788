"""What each request did, and what is computed from it, against vLLM's own definitions."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.bench.client import Run
from pipeline.stages.bench.metrics import figures_of
from pipeline.stages.bench.requests import Requests, summary_of


def detailed(ttfts: list[float], itls: list[list[float]], errors: list[str] | None = None) -> dict[str, Any]:
    """A result as vLLM's load generator writes it."""
    errors = errors or [""] * len(ttfts)
    return {
        "duration": 10.0,
        "completed": sum(not error for error in errors),
        "total_token_throughput": 5.0,
        "output_throughput": 4.0,
        "request_throughput": 1.0,
        "input_lens": [7] * len(ttfts),
        "output_lens": [0 if error else 1 + len(gaps) for gaps, error in zip(itls, errors, strict=True)],
        "ttfts": ttfts,
        "itls": itls,
        "latencies": [first + sum(gaps) for first, gaps in zip(ttfts, itls, strict=True)],
        "start_times": [0.1 * i for i in range(len(ttfts))],
        "generated_texts": ["secret"] * len(ttfts),
        "errors": errors,
    }


Rows = list[tuple[float, list[float], bool]]
REQUESTS = st.lists(
    st.tuples(st.floats(0.001, 5), st.lists(st.floats(0.0001, 1), max_size=6), st.booleans()), min_size=1, max_size=20
)


def of(rows: Rows) -> Requests:
    return Requests.of(detailed([r[0] for r in rows], [r[1] for r in rows], ["" if r[2] else "no" for r in rows]))


@given(REQUESTS)
def test_arrays_come_back_from_their_file_as_they_were(rows: Rows) -> None:
    made = of(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repeat-0.npz"
        made.save(path)
        read = Requests.load(path)
    for name in ("input_lens", "output_lens", "good", "ttft", "latency", "start", "itl", "itl_counts"):
        assert np.array_equal(getattr(made, name), getattr(read, name)), name


@given(REQUESTS, st.floats(1, 6000), st.floats(0.1, 1000))
def test_goodput_counts_the_answered_requests_that_meet_every_limit(rows: Rows, ttft_ms: float, tpot_ms: float) -> None:
    expected = 0
    for ttft, gaps, answered in rows:
        tpot = 1000 * ((ttft + sum(gaps)) - ttft) / len(gaps) if gaps else 0.0
        expected += answered and 1000 * ttft <= ttft_ms and tpot <= tpot_ms
    assert of(rows).meeting({"ttft_ms": ttft_ms, "tpot_ms": tpot_ms}) == expected
    assert of(rows).meeting({}) == sum(row[2] for row in rows)


@given(REQUESTS, st.floats(50, 99.9))
def test_a_percentile_is_met_by_so_many_and_a_failed_request_meets_none(rows: Rows, percentile: float) -> None:
    requests = of(rows)
    limit = requests.percentile("e2el_ms", percentile)
    if np.isfinite(limit):
        assert requests.meeting({"e2el_ms": limit}) >= percentile / 100 * (len(rows) - 1)
    else:
        assert not requests.good.all()


def test_tpot_leaves_out_replies_of_one_token_and_itl_failed_requests() -> None:
    requests = Requests.of(detailed([0.1, 0.2, 0.3], [[], [0.05, 0.07], [9.0]], ["", "", "closed"]))
    found = requests.latencies()
    assert found["ttft"][0] == pytest.approx([100, 200])
    assert found["tpot"][0] == pytest.approx([60])
    assert found["itl"][0] == pytest.approx([50, 70])
    assert list(found["itl"][1]) == [0, 2]


def test_an_older_client_has_no_latencies_and_they_are_its_parts() -> None:
    result = detailed([0.1, 0.2], [[0.1], [0.1, 0.2]])
    del result["latencies"]
    assert Requests.of(result).latency == pytest.approx([0.2, 0.5])


def test_a_summary_keeps_errors_and_no_texts() -> None:
    kept = summary_of(detailed([0.1, 0.2], [[], []], ["", "Internal Server Error"]))
    assert kept["first_errors"] == ["Internal Server Error"]
    assert not {"generated_texts", "itls", "errors"} & set(kept)
    assert "secret" not in str(kept)


def test_figures_keep_every_repeat_with_the_errors_of_its_percentiles() -> None:
    dice = np.random.default_rng(0)
    runs = []
    for _ in range(3):
        result = detailed(dice.exponential(0.2, 200).tolist(), [dice.exponential(0.05, 9).tolist() for _ in range(200)])
        result |= {"median_ttft_ms": 1000 * float(np.median(result["ttfts"])), "mean_ttft_ms": 1.0}
        result |= {f"p{percent}_ttft_ms": 1000 * float(np.percentile(result["ttfts"], percent)) for percent in (90, 99)}
        runs.append(Run(summary_of(result), Requests.of(result)))
    found = figures_of(runs, {"ttft_ms": 100.0})
    assert {"p90_ttft_ms", "p99_ttft_ms"} <= set(found)
    few = [Run(run.summary, run.requests.where(np.arange(200) < 99)) for run in runs]
    assert {"p90_ttft_ms", "p99_ttft_ms"} & set(figures_of(few, {})) == {"p90_ttft_ms"}
    assert len(found["total_token_throughput"].values) == 3
    assert "errors" not in found["mean_ttft_ms"].model_dump(exclude_unset=True)
    # Of an exponential's median: its scale over the root of the number.
    assert found["median_ttft_ms"].errors == pytest.approx([200 / 200**0.5] * 3, rel=0.35)
    assert found["request_goodput"].values == tuple(run.requests.meeting({"ttft_ms": 100.0}) / 10 for run in runs)


def test_times_are_in_milliseconds_of_the_answered_requests() -> None:
    requests = Requests.of(detailed([0.1, 0.25, 9.0], [[0.5], [0.25, 0.75], [1.0]], ["", "", "closed"]))
    found = requests.latencies()
    assert found["ttft"][0].tolist() == [100, 250] and found["ttft"][1].tolist() == [1, 1]
    assert found["e2el"][0].tolist() == pytest.approx([600, 1250])
    assert found["tpot"][0].tolist() == pytest.approx([500, 500]) and found["tpot"][1].tolist() == [1, 1]
    assert found["itl"][0].tolist() == [500, 250, 750] and found["itl"][1].tolist() == [1, 2]
    assert requests.tpot.tolist()[:2] == pytest.approx([0.5, 0.5])


def test_lengths_and_starts_are_those_of_the_result() -> None:
    result = detailed([0.1, 0.2, 0.3], [[0.1], [0.1], [0.1]], ["", "no", ""])
    found = Requests.of(result)
    assert (found.input_lens.tolist(), found.output_lens.tolist()) == ([7, 7, 7], [2, 0, 2])
    assert found.good.tolist() == [True, False, True]
    assert found.start.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert found.itl_counts.tolist() == [1, 1, 1]
    del result["start_times"]
    assert Requests.of(result).start.tolist() == [0, 0, 0]


def test_a_percentile_is_the_next_higher_value_and_infinite_among_failures() -> None:
    requests = Requests.of(detailed([0.1, 0.2, 0.3, 0.4], [[], [], [], []], ["", "", "", "no"]))
    assert requests.limited("ttft_ms").tolist() == pytest.approx([100, 200, 300, float("inf")])
    assert requests.percentile("ttft_ms", 50) == pytest.approx(300), "not between the second and the third"
    assert requests.percentile("ttft_ms", 0) == pytest.approx(100)
    assert requests.percentile("ttft_ms", 90) == float("inf")
    # A reply of one token has no further ones.
    assert requests.limited("tpot_ms").tolist()[:3] == [0, 0, 0]
    assert requests.meeting({"ttft_ms": 200.0}) == 2 and requests.meeting({"ttft_ms": 200.0, "e2el_ms": 150.0}) == 1


def test_chosen_requests_keep_their_own_gaps() -> None:
    requests = Requests.of(detailed([0.1, 0.2, 0.3], [[0.1], [0.2, 0.3], [0.4]]))
    chosen = requests.where(np.array([False, True, True]))
    assert chosen.itl.tolist() == [0.2, 0.3, 0.4] and chosen.itl_counts.tolist() == [2, 1]
    assert chosen.ttft.tolist() == [0.2, 0.3]


def test_a_summary_has_the_ends_of_the_first_five_errors() -> None:
    errors = ["", *(f"{number}" * 500 for number in range(7)), "short"]
    kept = summary_of(detailed([0.1] * 9, [[]] * 9, errors))
    assert kept["first_errors"] == [f"{number}" * 400 for number in range(5)]
    last = "a" + "b" * 400
    assert summary_of({"errors": ["", last, 17], "duration": 1.0, "queue_times": [1.0]}) == {
        "duration": 1.0,
        "first_errors": ["b" * 400, "17"],
    }
    assert summary_of({"duration": 1.0}) == {"duration": 1.0, "first_errors": []}


def test_a_refusal_without_a_reason_is_no_answer() -> None:
    """The client's error of it is the reason in the status line, which may be missing."""
    result = detailed([0.0, 0.5], [[], [0.1]])
    assert Requests.of(result | {"output_lens": [0, 2]}).good.tolist() == [False, True]
