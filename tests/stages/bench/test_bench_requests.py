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
