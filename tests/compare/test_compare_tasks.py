"""A task of a variant against BF16's: which items are compared, margins, answers that were cut, and the verdicts."""

from __future__ import annotations

import pytest

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import MeanLoss
from pipeline.compare.tasks import CutAnswers, TaskCell, judged, margins_of, mean_loss, on_same_items, task_cell
from pipeline.results.base import Missing
from pipeline.results.records import Record, TaskScores

GONE = Missing(reason="gone")


def task(scores: list[tuple[str, float]] | Missing, **more: object) -> TaskScores:
    n = 4 if isinstance(scores, Missing) else len(scores)
    value = 0.5 if isinstance(scores, Missing) else sum(score for _, score in scores) / n
    fields = {"task": "t", "metric": "acc", "value": value, "n": n, "asked": n, **more}
    return TaskScores(scores=scores if isinstance(scores, Missing) else tuple(scores), **fields)


def binary(n: int, wrong: int = 0, **more: object) -> TaskScores:
    return task([(f"item {i}", float(i >= wrong)) for i in range(n)], **more)


def record(name: str, tasks: dict[str, TaskScores] | Missing) -> Record:
    return Record(
        name=name,
        label=name.upper(),
        family="baseline" if name == "bf16" else "other",
        is_baseline=name == "bf16",
        emulated=(),
        size=GONE,
        speed=GONE,
        tasks=tasks,
    )


def cell(ours: TaskScores, theirs: TaskScores) -> TaskCell:
    found = task_cell(record("a", {"T": ours}), record("bf16", {"T": theirs}), "T")
    assert isinstance(found, TaskCell)
    return found


def test_a_part_of_the_items_is_held_against_as_many_of_each() -> None:
    """Two items have one hash: of BF16's three answers to it the first two belong to the part."""
    whole = task([("x", 1.0), ("y", 0.0), ("x", 0.0), ("z", 1.0), ("x", 1.0)], cut=(("y", 1.0), ("z", 1.0)))
    part = task([("x", 0.0), ("x", 0.0), ("z", 1.0)], n=3, asked=3)
    found = on_same_items(part, whole)
    assert found.scores == (("x", 1.0), ("x", 0.0), ("z", 1.0)) and found.cut == (("z", 1.0),)
    assert on_same_items(part, whole.model_copy(update={"cut": None})).cut is None
    change = cell(part, whole).change
    assert isinstance(change, PairedDifference)
    assert (change.n, change.gained, change.lost) == (3, 0, 1)
    # Of three items one is lost: the bootstrap reaches from all to none.
    assert change.bootstrap == Interval(low=-1.0, high=0.0)


def test_only_a_part_that_was_answered_in_full_is_one() -> None:
    whole = binary(10)
    lost_some = binary(4).model_copy(update={"asked": 5})
    for other in (lost_some, binary(10), binary(12), task(GONE, asked=4)):
        assert on_same_items(other, whole) is whole
    unstored = task(GONE, n=10, asked=10)
    assert on_same_items(binary(4), unstored) is unstored
    assert len(on_same_items(binary(4), whole).scores) == 4


@pytest.mark.parametrize(
    ("wanted", "margins"),
    [
        (None, {"A": 0.01, "B": 0.085}),
        (0.02, {"A": 0.02, "B": 0.02}),
        (1, {"A": 1.0, "B": 1.0}),
        ({"B": 0.05}, {"A": 0.01, "B": 0.05}),
    ],
)
def test_margins_are_as_wanted_or_by_the_size_of_the_set(wanted: object, margins: dict[str, float]) -> None:
    """Of several sizes of one set the smallest counts."""
    records = [
        record("bf16", {"A": binary(4, available=14042), "B": binary(4, available=500)}),
        record("a", {"B": binary(4, available=164)}),
        record("b", GONE),
    ]
    found = margins_of(records, ["A", "B"], wanted)
    assert {name: margin.margin for name, margin in found.items()} == pytest.approx(margins)
    assert (found["A"].available, found["B"].available) == (14042, 164)
    unknown = margins_of([record("a", {"A": binary(4)})], ["A", "B"], None)
    assert all(margin.available is None and margin.margin == 0.01 for margin in unknown.values())


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (None, "no BF16 baseline among the results"),
        (record("bf16", GONE), "BF16 has no scores: gone"),
        (record("bf16", {}), "BF16 has no T"),
        (record("bf16", {"T": binary(4, metric="f1")}), "BF16 was scored by t/f1"),
        (record("bf16", {"T": task(GONE)}), "BF16: gone"),
    ],
)
def test_without_bf16s_answers_there_is_no_difference(baseline: Record | None, reason: str) -> None:
    found = task_cell(record("a", {"T": binary(4, 1)}), baseline, "T")
    assert isinstance(found, TaskCell)
    assert found.change == Missing(reason=reason) and found.accuracy.value == 0.75


def test_without_answers_of_its_own_there_is_none_either() -> None:
    bf16 = record("bf16", {"T": binary(4)})
    assert task_cell(record("a", GONE), bf16, "T") == GONE
    assert task_cell(record("a", {}), bf16, "T") == Missing(reason="T was not scored")
    assert task_cell(record("a", {"T": task(GONE, n=0, value=0.0)}), bf16, "T") == Missing(reason="no item was scored")
    unstored = task_cell(record("a", {"T": task(GONE)}), bf16, "T")
    assert isinstance(unstored, TaskCell)
    assert unstored.change == GONE
    own = task_cell(bf16, bf16, "T")
    assert isinstance(own, TaskCell)
    assert own.change == Missing(reason="the baseline itself") and own.cut is None


def test_several_filters_are_kept_and_one_is_not() -> None:
    assert cell(binary(4, filters={"x": 0.5}), binary(4)).filters == {}
    assert cell(binary(4, filters={"x": 0.5, "y": 0.25}, chance=0.25), binary(4)).filters == {"x": 0.5, "y": 0.25}
    assert cell(binary(4, chance=0.25), binary(4)).chance == 0.25


def test_without_a_verdict_no_difference_is_shown() -> None:
    """The verdicts come with the whole table."""
    for ours, theirs in ((binary(60, 30), binary(60)), (binary(60), binary(60, 30))):
        found = cell(ours, theirs)
        assert isinstance(found.change, PairedDifference) and found.change.is_clear
        assert not (found.is_lower or found.is_gain or found.is_loss)


def cut(items: range | set[int], n: int = 60) -> dict[str, object]:
    return {"unfinished": len(items), "cut": tuple((f"item {i}", float(i in items)) for i in range(n))}


def test_cut_answers_are_compared_in_pairs_or_by_their_counts() -> None:
    """Of ten pairs that differ one is BF16's: 2 (1 + 10) / 2^10."""
    ours, theirs = binary(60, **cut(range(1, 10))), binary(60, **cut({0}))
    found = cell(ours, theirs).cut
    assert found is not None and (found.here, found.baseline, found.n, found.method) == (9, 1, 60, "McNemar")
    assert found.p_value == pytest.approx(22 / 1024)
    for one, other in (
        (ours.model_copy(update={"cut": None}), theirs),
        (ours, theirs.model_copy(update={"cut": None})),
        (ours, binary(60, unfinished=1, cut=(("another", 1.0),))),
    ):
        counted = cell(one, other).cut
        assert counted is not None and (counted.method, counted.here, counted.baseline) == ("Fisher", 9, 1)
    assert cell(binary(60), binary(60)).cut is None
    for one, other in ((ours, binary(60)), (binary(60), theirs)):
        assert cell(one, other).cut is not None


def test_cut_answers_of_a_part_are_held_against_bf16s_in_the_part() -> None:
    """Of BF16's 30 cut answers one is among the 20 that were asked, where the variant has 12."""
    ours, theirs = binary(20, **cut(range(12), 20)), binary(60, **cut({0, *range(31, 60)}))
    found = cell(ours, theirs).cut
    assert found is not None and (found.here, found.baseline, found.n, found.method) == (12, 1, 20, "McNemar")
    assert found.p_value == pytest.approx(2 / 2**11) and found.model_copy(update={"p_holm": 0.01}).is_more


def test_more_cut_answers_are_shown_by_the_corrected_p_value() -> None:
    found = CutAnswers(here=9, baseline=1, n=60, p_value=0.01, p_holm=0.05, method="Fisher")
    assert found.is_more
    for update in ({"p_holm": 0.0501}, {"here": 1}, {"here": 0}):
        assert not found.model_copy(update=update).is_more


def verdicts(*wrong: int, n: int = 400, cuts: tuple[int, ...] = ()) -> list[TaskCell]:
    """Judge variants with so many items lost on one task against BF16."""
    margins = margins_of([], ["T"], None)
    bf16 = record("bf16", {"T": binary(n, **cut(range(2), n))})
    records = [bf16]
    for index, lost in enumerate(wrong):
        cut_here = cut(range(cuts[index] if cuts else 2), n)
        records.append(record(f"v{index}", {"T": binary(n, lost, **cut_here)}))
    cells = [(each.name, {"T": task_cell(each, bf16, "T")}) for each in records]
    return [found["T"] for found in judged(cells, cells[0][1], margins)]


def test_p_values_are_corrected_over_the_table() -> None:
    """McNemar's 2 / 2^lost: the smallest times three, the next times two, the largest as it is."""
    bf16, *found = verdicts(20, 8, 6)
    assert bf16.loss == Missing(reason="the baseline itself")
    assert [each.loss.p_holm for each in found] == pytest.approx([3 * 2 / 2**20, 2 * 2 / 2**8, 2 / 2**6])
    assert [each.loss.comparisons for each in found] == [3, 3, 3]
    assert [each.loss.kind for each in found] == ["worse", "cannot tell", "cannot tell"]
    assert [each.is_loss for each in found] == [True, False, False]
    # All three are lower; the first is beyond the margin.
    assert [each.is_lower for each in found] == [False, True, True]
    assert not any(each.is_gain for each in found)


def test_cut_answers_are_corrected_by_themselves() -> None:
    _, one, other = verdicts(0, 0, cuts=(14, 11))
    assert (one.cut.p_value, other.cut.p_value) == pytest.approx((2 / 2**12, 2 / 2**9))
    assert (one.cut.p_holm, other.cut.p_holm) == pytest.approx((2 * 2 / 2**12, 2 / 2**9))


def test_near_chance_the_verdict_is_blind() -> None:
    margins = margins_of([], ["T"], None)
    bf16, ours = (record(name, {"T": binary(400, 300, chance=0.25)}) for name in ("bf16", "a"))
    cells = [(each.name, {"T": task_cell(each, bf16, "T")}) for each in (bf16, ours)]
    found = judged(cells, cells[0][1], margins)[1]["T"]
    assert found.loss.kind == "cannot tell" and found.loss.blind.startswith("BF16 itself scores 25.0 %")
    assert judged(cells, {}, margins)[1]["T"].loss.kind == "no worse"
    assert judged([("a", {"T": GONE})], {}, margins) == [{"T": GONE}]


def test_the_mean_loss_needs_every_task() -> None:
    margins = margins_of([], ["T", "U"], None)
    one = verdicts(0)[1]
    found = mean_loss({"T": one, "U": one}, margins)
    assert isinstance(found, MeanLoss) and found.margin == 0.03 and found.is_within
    assert mean_loss({"T": one, "U": GONE}, margins) == Missing(reason="not every task has a difference from BF16")
    graded = cell(task([("x", 0.4)]), task([("x", 0.5)]))
    assert mean_loss({"T": graded}, margins) == Missing(reason="a difference has no interval")
