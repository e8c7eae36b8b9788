"""What is known of a row's accuracy: no worse, worse, lowered, higher, and the margins that verdicts hold to."""

from __future__ import annotations

import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.comparison import Row
from pipeline.compare.decide.losses import (
    is_no_worse,
    is_scored,
    losses,
    lowered,
    mean_loss_at,
    scored,
    verdict_at,
    wins,
    within,
    worst_loss,
)
from pipeline.compare.decide.losses import tested_interval as interval_text
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import MeanLoss, judge_loss, judge_mean
from pipeline.results.base import Missing

GONE = Missing(reason="gone")


def row_of(wrong: int, baseline_wrong: int = 0, n: int = 400, margins: object = None) -> Row:
    records = [record("bf16", wrong=baseline_wrong, n=n), record("a", wrong=wrong, n=n)]
    return compare(records, TASKS, margins).rows[1]


def without(row: Row, task: str) -> Row:
    return row.model_copy(update={"tasks": {**row.tasks, task: GONE}})


def test_losses_gains_and_those_between() -> None:
    """Of 400 items: 30 lost are beyond a point, 10 lost may be within two, 30 won are a gain."""
    lossy, between, better = row_of(30), row_of(10, margins=0.02), row_of(10, 40)
    assert set(losses(lossy)) == set(TASKS) and losses(lossy)["MMLU"].lost == 30
    assert losses(between) == losses(better) == losses(row_of(0)) == {}
    assert set(lowered(between)) == set(TASKS) and lowered(lossy) == lowered(better) == {}
    assert set(wins(better)) == set(TASKS) and wins(lossy) == wins(between) == wins(row_of(0)) == {}
    assert set(losses(without(lossy, "MMLU"))) == {"GSM8K"}


def test_no_worse_is_so_on_every_task_and_in_the_mean() -> None:
    row = row_of(0)
    assert is_scored(row) and is_no_worse(row)
    assert not is_no_worse(row_of(30)) and is_scored(row_of(30))
    for partly in (without(row, "GSM8K"), row.model_copy(update={"tasks": {}})):
        assert not is_scored(partly) and not is_no_worse(partly)
    for mean in (MeanLoss(margin=0.03, p_value=0.051), GONE):
        assert not is_no_worse(row.model_copy(update={"mean_loss": mean}))
    assert is_no_worse(row.model_copy(update={"mean_loss": MeanLoss(margin=0.03, p_value=0.05)}))
    mixed = row.model_copy(update={"tasks": {**row.tasks, "MMLU": row_of(30).tasks["MMLU"]}})
    assert not is_no_worse(mixed) and is_scored(mixed)


def test_a_verdict_at_another_margin_is_judged_anew() -> None:
    cell = row_of(20).tasks["MMLU"]
    assert cell.loss.kind == "worse" and verdict_at(cell, None) is cell.loss is verdict_at(cell, 0.01)
    wide = verdict_at(cell, 0.1)
    assert (wide.kind, wide.margin, wide.p_holm) == ("no worse", 0.1, cell.loss.p_holm)
    assert wide == judge_loss(cell.change, cell.loss.p_holm, 0.1, comparisons=2)
    narrow = verdict_at(cell, 0.05)
    assert (narrow.kind, narrow.comparisons, narrow.available) == ("cannot tell", 2, None)
    assert verdict_at(cell.model_copy(update={"loss": GONE}), 0.1) is None
    assert verdict_at(cell.model_copy(update={"change": GONE}), None) is None


def test_the_mean_is_judged_at_the_smallest_limit_where_every_task_has_a_larger_one() -> None:
    """Ten points were accepted on each task, and a loss of three on each left the mean open."""
    row = row_of(12)
    table = row.mean_loss
    assert isinstance(table, MeanLoss) and (table.margin, table.is_within) == (0.03, False)
    found = mean_loss_at(row, {"MMLU": 0.1, "GSM8K": 0.08})
    changes = [cell.change for cell in row.tasks.values()]
    assert found == judge_mean(changes, 0.08) and found.is_within
    for limits in ({}, {"MMLU": 0.1}, {"MMLU": 0.1, "GSM8K": 0.03}, {"MMLU": 0.1, "GSM8K": 0.01}):
        assert mean_loss_at(row, limits) is table
    assert mean_loss_at(without(row, "MMLU").model_copy(update={"mean_loss": GONE}), {"GSM8K": 0.1}) == GONE


def test_the_worst_loss_is_the_largest_that_is_not_ruled_out() -> None:
    row = row_of(20)
    low = row.tasks["MMLU"].loss.interval.low
    tasks = {**row.tasks, "MMLU": row_of(0).tasks["MMLU"]}
    assert worst_loss(row.model_copy(update={"tasks": tasks})) == ("GSM8K", -low)
    assert worst_loss(row) == ("MMLU", -low) and 0.05 < -low < 0.1
    assert worst_loss(without(row, "MMLU")) == ("GSM8K", -low)
    # A gain leaves no loss.
    assert worst_loss(row_of(0, 40)) is None
    assert worst_loss(row.model_copy(update={"tasks": {"MMLU": GONE}})) is None
    assert set(scored(without(row, "MMLU"))) == {"GSM8K"}


def test_the_interval_of_a_verdict_in_points() -> None:
    cell = row_of(20).tasks["MMLU"]
    loss = cell.loss.model_copy(update={"interval": Interval(low=-0.0712, high=0.0049)})
    assert interval_text(cell.change, loss) == "−5.0 points (90 %: −7.1 to +0.5)"
    unknown = loss.model_copy(update={"interval": None})
    assert interval_text(cell.change, unknown) == "−5.0 points (90 %: −100.0 to +100.0)"


@pytest.mark.parametrize(
    ("margins", "limits", "text"),
    [
        (0.01, {}, "within 1 point"),
        (0.01, {"MMLU": 0.05, "GSM8K": 0.05}, "within 5 points"),
        (0.01, {"MMLU": 0.05}, "GSM8K within 1 point; MMLU within 5 points"),
        ({"MMLU": 0.02, "GSM8K": 0.03}, {"GSM8K": 0.02}, "within 2 points"),
    ],
)
def test_the_margins_of_a_row_in_words(margins: object, limits: dict[str, float], text: str) -> None:
    assert within(row_of(0, margins=margins), limits) == text


def test_tasks_of_one_margin_are_named_together() -> None:
    three = row_of(0).tasks["MMLU"]
    row = row_of(0).model_copy(update={"tasks": {"X": three, "Y": GONE, **row_of(0).tasks}})
    assert within(row, {"X": 0.04}) == "MMLU and GSM8K within 1 point; X within 4 points"
