"""Differences of speed that may be claimed, between any two rows of the table."""

from __future__ import annotations

import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.decide.differences import (
    baseline_of,
    by_throughput,
    change_of,
    claim,
    gains,
    mean_throughput,
    serves_more,
    speed_between,
    throughput_over,
    variation,
    variation_text,
)
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.objective import Objective
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult
from pipeline.results.metrics import THROUGHPUT, TTFT

GONE = Missing(reason="gone")


def table(*records):
    found = compare(records, TASKS)
    return found, {row.name: row for row in found.rows}


COMPARISON, ROWS = table(
    record("bf16"),
    record("a", 1250),
    record("b", 1000),
    record("x", speed=GONE),
)


def test_the_change_from_bf16_is_that_of_what_was_timed() -> None:
    assert change_of(ROWS["a"], THROUGHPUT.name).percent == pytest.approx(25)
    assert change_of(ROWS["a"], TTFT.name).percent == pytest.approx(-20)
    assert change_of(ROWS["a"], "other") is None
    assert [change_of(ROWS[name], THROUGHPUT.name) for name in ("bf16", "x")] == [None, None]
    assert [gains(ROWS[name]) for name in ("a", "b", "x", "bf16")] == [True, False, False, False]
    _, slow = table(record("bf16"), record("slow", 800))
    assert change_of(slow["slow"], THROUGHPUT.name).is_clear and not gains(slow["slow"])
    assert baseline_of(COMPARISON) is COMPARISON.rows[0] and baseline_of(table(record("a"))[0]) is None


def test_the_change_between_two_rows_is_that_of_the_pair_or_of_all_pairs() -> None:
    over = throughput_over(COMPARISON, ROWS["a"], ROWS["b"])
    assert over.percent == pytest.approx(25)
    assert throughput_over(COMPARISON, ROWS["b"], ROWS["a"]).percent == pytest.approx(-20)
    assert throughput_over(COMPARISON, ROWS["a"], ROWS["x"]) is None
    assert over == speed_between(COMPARISON, THROUGHPUT.name, "a", "b")
    noisy, _ = table(record("bf16", noise=(1.0, 1.1, 0.95)), record("a", 1250, noise=(1.1, 0.9, 1.0)), record("b"))
    alone, wide = (speed_between(noisy, THROUGHPUT.name, "a", "b", comparisons=n).interval for n in (1, "all"))
    assert wide.low < alone.low and alone.high < wide.high
    narrow = speed_between(noisy, THROUGHPUT.name, "a", "b", level=0.8).interval
    assert alone.low < narrow.low and narrow.high < alone.high


def test_what_is_not_compared_says_why() -> None:
    for pair in (("a", "x"), ("x", "a")):
        assert speed_between(COMPARISON, THROUGHPUT.name, *pair) == GONE
    far, rows = table(record("bf16"), record("far", 1200, machine="elsewhere"))
    reason = "measured on another machine, or under another load"
    assert speed_between(far, THROUGHPUT.name, "far", "bf16") == Missing(reason=reason)
    assert Objective(far).repeats_needed(rows["far"], rows["bf16"]) is None
    assert Objective(COMPARISON).repeats_needed(ROWS["a"], ROWS["x"]) is None


def test_throughput_at_a_given_rate_is_not_compared() -> None:
    """Both serve what they are sent: 25 % more is the rate's doing, and the time to the first token is not."""

    def offered(name, throughput):
        made = record(name, throughput)
        fields = {"num_prompts": 9, "max_concurrency": None, "asked": 27, "completed": 27, "failed": 0}
        load = LoadResult(name="rate 12/s", request_rate=12.0, metrics=made.speed.metrics, **fields)
        return record(name, speed=made.speed.model_copy(update={"loads": (load,), "headline": load.name}))

    found, rows = table(offered("bf16", 1000), offered("a", 1250))
    given = Missing(reason="the rate is given, so throughput is not a result")
    assert speed_between(found, THROUGHPUT.name, "a", "bf16") == given
    assert throughput_over(found, rows["a"], rows["bf16"]) is None
    assert Objective(found).repeats_needed(rows["a"], rows["bf16"]) is None
    assert speed_between(found, TTFT.name, "a", "bf16").percent == pytest.approx(-20)
    throughput, ttft, *_ = frontiers([offered("bf16", 1000), offered("a", 1250)], found, 1.0)
    assert not throughput.places and set(throughput.absent.values()) == {given.reason}
    assert {place.name for place in ttft.places} == {"bf16", "a"}


def test_repeats_are_proposed_where_there_is_a_difference() -> None:
    close, rows = table(record("bf16", noise=(1.0, 1.03, 0.97)), record("a", 1120, noise=(1.03, 0.97, 1.0)))
    found = Objective(close).repeats_needed(rows["a"], rows["bf16"])
    assert found.unit == "repeats" and found.likely >= 3
    same, rows = table(record("bf16"), record("a", 1002, noise=(1.01, 1.0, 0.99)))
    assert Objective(same).repeats_needed(rows["a"], rows["bf16"]) is None


@pytest.mark.parametrize(
    ("noise", "times", "text"),
    [
        ((1.0, 1.2, 1.1), 1.2, "BF16 itself varied by 20 %"),
        ((1.0, 1.49), 1.49, "BF16 itself varied by 49 %"),
        ((1.0, 1.5), 1.5, "BF16 itself varied by 1.5 times"),
        ((1.0, 2.5, 2.0), 2.5, "BF16 itself varied by 2.5 times"),
        ((1.0,), None, ""),
        ((0.0, 1.0), None, ""),
    ],
)
def test_the_variation_of_bf16_is_the_largest_repeat_over_the_smallest(noise, times, text) -> None:
    made = record("bf16", noise=(1.0,) * len(noise))
    metrics = {
        THROUGHPUT.name: made.speed.metrics[THROUGHPUT.name].model_copy(
            update={"values": tuple(1000 * f for f in noise)}
        )
    }
    comparison, rows = table(record("bf16", speed=made.speed.model_copy(update={"metrics": metrics})))
    assert variation(rows["bf16"]) == (times if times is None else pytest.approx(times))
    assert variation_text(comparison) == text
    assert variation(None) is None and variation_text(table(record("a"))[0]) == ""


def test_rows_by_throughput_without_bf16() -> None:
    assert [row.name for row in by_throughput(COMPARISON)] == ["a", "b", "x"]
    assert (mean_throughput(ROWS["a"]), mean_throughput(ROWS["x"])) == (pytest.approx(1250), 0.0)


def test_a_gain_in_words_and_as_a_claim() -> None:
    change = Change(percent=25.04, interval=Interval(low=20.0, high=30.0), widened_percent=2.0)
    start = "A serves 25.0 % more tokens per second than BF16 (95 % interval +20.0 to +30.0 %"
    assert serves_more(ROWS["a"], change) == f"{start}; one start of each server, widened by 2 %)"
    assert serves_more(ROWS["a"], change.model_copy(update={"widened_percent": 0.0})) == f"{start})"
    found = claim(ROWS["a"], THROUGHPUT.name, change)
    assert (found.variant, found.against, found.column, found.interval) == (
        "a",
        "bf16",
        THROUGHPUT.name,
        change.interval,
    )
