"""Counts of requests under the names of a task's result."""

from pipeline.results.eval import TaskResult
from pipeline.stages.eval.tally import Tally


def test_each_count_has_its_own_field() -> None:
    tally = Tally(fast=1, echo=2, generated=3, unfinished=4, asked_again=5, differing=6)
    tally.truncated |= {("task", 1), ("task", 2)}
    tally.cut |= {("task", 1)}
    facts = tally.facts()
    assert facts == {
        **{"asked_once": 1, "asked_by_echo": 2, "generated": 3, "truncated": 2},
        **{"unfinished": 4, "asked_again": 5, "differing": 6},
    }
    result = TaskResult(task="t", metric="acc", value=0.5, n=7, **facts)
    assert (result.asked, result.truncated, result.differing) == (7, 2, 6)


def test_nothing_was_counted_before_the_first_request() -> None:
    assert not any(Tally().facts().values())
    one, other = Tally(), Tally()
    one.truncated.add("item")
    assert other.truncated == other.cut == set()
