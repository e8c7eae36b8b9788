"""One figure in two runs: how each is read and compared, by formulas worked out here."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.run_figures import ALL_TASKS, Column, Delta, Figure, RunName, Snapshot, columns, difference
from pipeline.compare.stats.accuracy import adjusted_wald, wilson
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell, Estimate
from pipeline.results.base import Missing
from pipeline.results.item_scores import ItemScores
from pipeline.results.metrics import HEADLINE
from pipeline.results.records import Record, TaskScores

THROUGHPUT, TTFT, TPOT = (metric.name for metric in HEADLINE)


def snapshot(*records: Record, stored: bool = True, name: str = "run") -> Snapshot:
    answers = {
        r.name: {task: ItemScores.of(scored.scores) for task, scored in r.tasks.items()}
        for r in records
        if stored and not isinstance(r.tasks, Missing)
    }
    run = RunName(name=name, model="m", machine="box", measured="today", load="few")
    return Snapshot(run=run, comparison=compare(records, TASKS), answers=answers)


def column(name: str, *runs: Snapshot, tolerance: float = 2.0) -> Column:
    return {each.name: each for each in columns(runs, tolerance)}[name]


def cells(name: str, *runs: Snapshot, variant: str = "a") -> list[Any]:
    read = column(name, *runs).cell
    return [read(run, row) for run in runs for row in run.comparison.rows if row.name == variant]


def delta(name: str, then: Snapshot, now: Snapshot, tolerance: float = 2.0) -> Delta:
    before, after = cells(name, then, now)
    return column(name, then, now, tolerance=tolerance).compare({"a": (after, before)})["a"]


def test_the_columns_are_those_of_all_runs() -> None:
    found = columns([snapshot(record("a")), snapshot(record("a"))], 2.0)
    assert [each.name for each in found] == [THROUGHPUT, TTFT, TPOT, "size", *TASKS, ALL_TASKS, "kl_from_bf16"]
    assert [each.better for each in found] == ["higher", "lower", "lower", "lower", *3 * ["higher"], "lower"]
    assert [each.family for each in found] == [*3 * ["speed"], *5 * ["quality"]]
    assert [each.needs_machine for each in found] == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    ("factor", "tolerance", "same", "no_worse", "limit"),
    # Three pairs with a standard deviation of 0.1 %: a half width of 0.25 %.
    [
        (1.0, 2.0, True, True, "not shown to be within 2 %"),
        (1.019, 2.0, False, True, "not shown to be within 2 %"),
        (0.981, 2.0, False, False, "not shown to be within 2 %"),
        (1.017, 2.0, True, True, "not shown to be within 2 %"),
        (0.983, 2.0, True, True, "not shown to be within 2 %"),
        (1.05, 2.0, False, True, "two sessions may differ by as much"),
        (0.95, 2.0, False, False, "two sessions may differ by as much"),
    ],
)
def test_a_speed_is_the_same_within_the_tolerance_on_both_sides(
    factor: float, tolerance: float, same: bool, no_worse: bool, limit: str
) -> None:
    then, now = (
        snapshot(record("a", noise=(1.0, 1.0, 1.0))),
        snapshot(record("a", 1000 * factor, noise=(1, 1.001, 0.999))),
    )
    faster = delta(THROUGHPUT, then, now, tolerance)
    assert (faster.same, faster.no_worse, faster.limit) == (same, no_worse, limit)
    assert faster.change == pytest.approx(100 * (factor - 1), abs=1e-3)
    half = stats.t.ppf(0.975, 2) * 0.001 / math.sqrt(3)
    assert faster.interval is not None
    assert faster.interval.high == pytest.approx(100 * (factor * math.exp(half) - 1), abs=1e-3)
    assert faster.interval.low == pytest.approx(100 * (factor * math.exp(-half) - 1), abs=1e-3)
    # A latency that falls by as much is no worse, one that rises is.
    slower = delta(TTFT, then, now, tolerance)
    assert slower.change == pytest.approx(100 * (1 / factor - 1), abs=1e-3)
    assert slower.no_worse is no_worse


def test_a_change_is_beyond_the_tolerance_if_no_value_of_its_interval_is_within() -> None:
    then = snapshot(record("a", noise=(1.0, 1.0, 1.0)))
    for factor in (1.05, 0.95):
        now = snapshot(record("a", 1000 * factor, noise=(1, 1.001, 0.999)))
        around = delta(THROUGHPUT, then, now).interval
        assert around is not None
        nearest = min(abs(around.low), abs(around.high))
        assert delta(THROUGHPUT, then, now, 0.999 * nearest).limit == "two sessions may differ by as much"
        assert "not shown" in delta(THROUGHPUT, then, now, nearest).limit


def test_a_single_repeat_has_a_change_and_no_interval() -> None:
    found = delta(THROUGHPUT, snapshot(record("a", 1000, noise=(1.0,))), snapshot(record("a", 1100, noise=(1.0,))))
    assert found.change == pytest.approx(10) and found.interval is None and "single repeat" in found.reason
    assert not found.same and not found.no_worse


def test_a_speed_that_was_not_measured_is_missing() -> None:
    assert cells(THROUGHPUT, snapshot(record("a")), snapshot(record("a")))[0].measured.mean == pytest.approx(1000)
    gone = snapshot(record("a", speed=Missing(reason="gone")))
    assert cells(THROUGHPUT, gone, gone)[0] == Missing(reason="gone")


@pytest.mark.parametrize(
    ("size", "percent", "same"), [(102, 2, True), (98, -2, True), (103, 3, False), (97, -3, False)]
)
def test_bytes_are_counted(size: int, percent: float, same: bool) -> None:
    found = delta("size", snapshot(record("a", size=100)), snapshot(record("a", size=size)), tolerance=2.0 + 1e-9)
    assert found.change == pytest.approx(percent) and found.same is same and found.p_value is None
    assert found.interval is not None and found.interval.low == found.interval.high == found.change
    # The tolerance itself is still the same.
    assert delta("size", snapshot(record("a", size=100)), snapshot(record("a", size=150)), tolerance=50.0).same
    read = column("size", *2 * [snapshot(record("a"))])
    assert read.figure(cells("size", *2 * [snapshot(record("a", size=120))])[0]) == Figure(value=120.0, interval=None)


def test_a_task_is_read_in_percent() -> None:
    runs = [snapshot(record("a", wrong=40))] * 2
    figure = column("MMLU", *runs).figure(cells("MMLU", *runs)[0])
    around = wilson(0.9, 400)
    assert figure.value == pytest.approx(90)
    assert (figure.interval.low, figure.interval.high) == pytest.approx((100 * around.low, 100 * around.high))


def test_the_same_items_are_compared_in_pairs() -> None:
    """12 of 400 items are lost: McNemar's p is 2 / 2^12, the interval that of Bonett and Price in points."""
    found = delta("MMLU", snapshot(record("a", wrong=8)), snapshot(record("a", wrong=20)))
    around = adjusted_wald(0, 12, 400)
    assert found.change == pytest.approx(-3) and found.p_value == pytest.approx(2 / 2**12)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((100 * around.low, 100 * around.high))
    assert found.reason == "0 gained, 12 lost" and not found.same and not found.no_worse
    assert found.limit == "a loss of 1 point is not ruled out"
    back = delta("MMLU", snapshot(record("a", wrong=20)), snapshot(record("a", wrong=8)))
    assert back.change == pytest.approx(3) and back.reason == "12 gained, 0 lost" and back.same and back.no_worse


@pytest.mark.parametrize(("n", "lost", "no_worse"), [(400, 0, True), (20, 0, True), (400, 1, False), (4000, 8, True)])
def test_a_loss_of_the_margin_is_ruled_out_by_many_items_or_by_identical_answers(
    n: int, lost: int, no_worse: bool
) -> None:
    found = delta("MMLU", snapshot(record("a", n=n)), snapshot(record("a", n=n, wrong=lost)))
    assert found.same is found.no_worse is no_worse
    assert found.reason == (f"0 gained, {lost} lost" if lost else "")


def test_the_margin_is_that_of_the_runs_own_verdicts() -> None:
    """A loss of 12 of 400 items: within 5 points, not within one."""
    then, now = (snapshot(record("bf16", n=400), record("a", wrong=wrong)) for wrong in (0, 12))
    wide = now.model_copy(update={"comparison": compare([record("bf16"), record("a", wrong=12)], TASKS, 0.06)})
    assert not delta("MMLU", then, now).no_worse
    found = delta("MMLU", then, wide)
    assert found.no_worse and found.limit == "a loss of 6 points is not ruled out"
    narrow = now.model_copy(update={"comparison": compare([record("bf16"), record("a", wrong=12)], TASKS, 0.005)})
    assert delta("MMLU", then, narrow).limit == "a loss of 0.5 points is not ruled out"


def graded(made: Record, shift: float) -> Record:
    items = tuple((f"item {i}", 0.5 + shift * (1 + i % 3)) for i in range(60))
    scored = TaskScores(
        task="t", metric="f1", value=float(np.mean([s for _, s in items])), n=60, asked=60, scores=items
    )
    return made.model_copy(update={"tasks": dict.fromkeys(TASKS, scored)})


def test_graded_scores_have_students_test_of_the_differences() -> None:
    then, now = snapshot(graded(record("a"), 0.0)), snapshot(graded(record("a"), -0.125))
    found = delta("MMLU", then, now)
    lost = [-0.125 * (1 + i % 3) for i in range(60)]
    expected = stats.ttest_1samp(lost, 0)
    low, high = expected.confidence_interval()
    assert found.change == pytest.approx(-25) and found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((100 * low, 100 * high))
    assert found.reason == "0 gained, 60 lost" and not found.no_worse
    # Not bits: no share of correct answers over all tasks.
    assert cells(ALL_TASKS, then, now)[0] == Missing(reason="fewer than two tasks have answers in both runs")


def test_other_items_are_not_compared() -> None:
    for then, now in (
        (snapshot(record("a", n=100)), snapshot(record("a", n=99))),
        (snapshot(record("a", n=100)), snapshot(record("a", n=99), stored=False)),
        (snapshot(record("a")), snapshot(record("a")).model_copy(update={"answers": {"a": other_answers()}})),
    ):
        assert delta("MMLU", then, now)[:3] == (None, None, "scored on other items")


def other_answers() -> dict[str, ItemScores]:
    return dict.fromkeys(TASKS, ItemScores.of([(f"another {i}", 1.0) for i in range(400)]))


@pytest.mark.parametrize("lacks", ["then", "now"])
def test_without_answers_shares_are_independent(lacks: str) -> None:
    """The p-value is that of the level at which Newcombe's interval ends at zero."""
    then = snapshot(record("a", wrong=40), stored=lacks != "then", name="then")
    now = snapshot(record("a", wrong=80), stored=lacks != "now", name="now")
    found = delta("MMLU", then, now)
    before, after = wilson(0.9, 400), wilson(0.8, 400)
    above = math.hypot(after.high - 0.8, 0.9 - before.low)
    below = math.hypot(0.8 - after.low, before.high - 0.9)
    assert found.change == pytest.approx(-10) and found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((-10 - 100 * below, -10 + 100 * above))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(stats.norm.ppf(0.975) * 0.1 / above))
    assert found.reason == f"compared as independent samples, which detects less: {lacks} has no answers to pair"
    assert not found.no_worse and found.limit == "a loss of 1 point is not ruled out"
    back = delta("MMLU", now, then)
    assert back.change == pytest.approx(10) and back.same and back.no_worse
    assert back.p_value == pytest.approx(found.p_value)


def test_all_tasks_together_are_their_items() -> None:
    then, now = (snapshot(record("a", n=100, wrong=wrong)) for wrong in (20, 25))
    figure = column(ALL_TASKS, then, now).figure(cells(ALL_TASKS, then, now)[1])
    assert figure == Figure(value=75.0, interval=None)
    found = delta(ALL_TASKS, then, now)
    assert found.change == pytest.approx(-5) and found.p_value == pytest.approx(2 / 2**10)
    assert found.reason == "0 gained, 10 lost"


def test_together_are_the_tasks_that_are_the_same_in_the_last_two_runs() -> None:
    whole = snapshot(record("a", n=100))
    gone = Missing(reason="fewer than two tasks have answers in both runs")
    part = whole.model_copy(update={"answers": {"a": {"MMLU": whole.answers["a"]["MMLU"]}}})
    assert cells(ALL_TASKS, part, whole) == cells(ALL_TASKS, whole, part) == [gone, gone]
    assert cells(ALL_TASKS, whole, snapshot(record("a", n=99))) == [gone, gone]
    # An older run with other items changes nothing.
    read = cells(ALL_TASKS, snapshot(record("a", n=99)), whole, whole)
    assert set(read[1]) == set(read[2]) == set(TASKS)


def diverged(figures: tuple[float, ...], tokens: int = 1000, stored: bool = True, single: bool = False) -> Snapshot:
    kl = sum(figures) / tokens
    whole = Estimate(value=kl, interval=None if single else Interval(low=0.9 * kl, high=1.2 * kl))
    cell = DivergenceCell(
        kl=whole,
        agreement=whole,
        perplexity_ratio=whole,
        by_position=(),
        worst_share=None,
        sequences=len(figures),
        tokens=tokens,
        top_k=20,
        by_sequence=figures if stored else (),
    )
    found = snapshot(record("a"))
    rows = tuple(row.model_copy(update={"divergence": cell}) for row in found.comparison.rows)
    return found.model_copy(update={"comparison": found.comparison.model_copy(update={"rows": rows})})


KL = "kl_from_bf16"
THEN = (1.0, 4.0, 2.0, 8.0, 0.5, 3.0)


def test_divergences_are_compared_conversation_by_conversation() -> None:
    now = (1.2, 4.1, 2.4, 8.2, 0.4, 3.3)
    found = delta(KL, diverged(THEN), diverged(now))
    differences = np.subtract(now, THEN)
    expected = stats.ttest_1samp(differences / 1000 * 6, 0)
    low, high = expected.confidence_interval()
    assert found.change == pytest.approx(0.0011) and found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    # Two percent of 0.0185 are no change: the p-value is of what is beyond.
    error = differences.std(ddof=1) * math.sqrt(6) / 1000
    assert found.p_value == pytest.approx(2 * stats.t.sf((0.0011 - 0.00037) / error, 5))
    assert not found.same and not found.no_worse and found.limit == "not shown to be within 2 %"
    exact = delta(KL, diverged(THEN), diverged(now), tolerance=0.0)
    assert exact.p_value == pytest.approx(expected.pvalue)


def test_a_divergence_that_falls_is_no_worse() -> None:
    less = tuple(value - 0.4 for value in THEN)
    found = delta(KL, diverged(THEN), diverged(less))
    assert found.change == pytest.approx(-0.0024) and found.no_worse and not found.same
    assert found.p_value == pytest.approx(0, abs=1e-9)
    same = delta(KL, diverged(THEN), diverged(THEN))
    assert (same.change, same.p_value, same.same, same.no_worse) == (0.0, 1.0, True, True)
    back = delta(KL, diverged(less), diverged(THEN))
    assert not back.same and not back.no_worse
    assert delta(KL, diverged(THEN), diverged(tuple(1.001 * value for value in THEN))).same


def test_divergences_without_those_of_conversations_are_independent() -> None:
    reason = "compared as independent samples, which detects less: a run has no figure of each conversation to pair"
    for then, now in (
        (diverged(THEN, stored=False), diverged(tuple(2 * v for v in THEN))),
        (diverged(THEN), diverged(tuple(2 * v for v in THEN), stored=False)),
    ):
        found = delta(KL, then, now)
        # 0.037 (0.0333 to 0.0444) against 0.0185 (0.01665 to 0.0222).
        below, above = math.hypot(0.0037, 0.0037), math.hypot(0.0074, 0.00185)
        assert found.change == pytest.approx(0.0185) and found.reason == reason and found.interval is not None
        assert (found.interval.low, found.interval.high) == pytest.approx((0.0185 - below, 0.0185 + above))
        assert found.p_value == pytest.approx(2 * stats.norm.sf(stats.norm.ppf(0.975) * 0.0185 / below))
    lone = delta(KL, diverged((4.0,)), diverged((5.0,)))
    assert lone.reason == reason and lone.change == pytest.approx(0.001)


def test_divergences_of_another_text_or_without_interval_are_not_compared() -> None:
    for other in (diverged(THEN, tokens=900), diverged((*THEN, 1.0))):
        assert delta(KL, diverged(THEN), other)[:3] == (None, None, "measured on another text")
    lone = delta(KL, diverged((4.0,), single=True), diverged((5.0,), single=True))
    assert lone.interval is None and lone.reason == "a figure has no interval"


def test_bf16_has_no_divergence_of_its_own() -> None:
    run = snapshot(record("bf16"), record("a"))
    assert cells(KL, run, run, variant="bf16")[0] == Missing(reason="the baseline itself")
    assert cells(KL, run, run)[0] == Missing(reason="not measured")


def test_newcombes_example() -> None:
    """Newcombe 1998, table II, case (a): 56/70 against 48/80 has 0.0524 to 0.3339."""
    ours, theirs = (Figure(value=k / n, interval=wilson(k / n, n)) for k, n in ((56, 70), (48, 80)))
    around = difference(ours, theirs)
    assert around is not None
    assert (around.low, around.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_a_figure_without_interval_differs_by_an_unknown_amount() -> None:
    known, single = Figure(value=0.8, interval=wilson(0.8, 70)), Figure(value=0.5, interval=None)
    assert difference(known, single) is difference(single, known) is difference(single, single) is None


def test_equal_models_rarely_look_worse() -> None:
    """At 95 % an unchanged accuracy is called worse in about one of forty runs."""
    rng = random.Random(0)
    n, share, worse = 300, 0.8, 0
    for _ in range(2000):
        counts = [sum(rng.random() < share for _ in range(n)) for _ in range(2)]
        ours, theirs = (Figure(value=k / n, interval=wilson(k / n, n)) for k in counts)
        around = difference(ours, theirs)
        assert around is not None
        worse += around.high < 0
    assert 0.01 < worse / 2000 < 0.04
