"""Verdicts on a loss: the test's size, Holm's correction, how many items it takes, and what the table makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from pipeline.compare.comparison import TaskCell, compare
from pipeline.compare.stats.accuracy import (
    PairedDifference,
    adjusted_wald,
    bootstrap_mean,
    counted_difference,
    mcnemar,
    paired_difference,
)
from pipeline.compare.stats.intervals import Interval, holm
from pipeline.compare.stats.noninferiority import (
    LossVerdict,
    blindness,
    judge_loss,
    judge_mean,
    loss_interval,
    mean_margin,
    p_beyond,
    p_within,
    tango,
    task_margin,
)
from pipeline.compare.stats.paired_score import p_above, p_below
from pipeline.compare.stats.sample_size import LEVEL, decided, items_needed, items_needed_graded
from pipeline.results.base import Missing
from pipeline.results.records import Record, TaskScores

MARGIN = 0.01


def change(gained: int, lost: int, n: int) -> PairedDifference:
    ours = [1.0] * gained + [0.0] * (n - gained)
    theirs = [0.0] * gained + [1.0] * lost + [0.0] * (n - gained - lost)
    found = paired_difference(named(ours), named(theirs))
    assert isinstance(found, PairedDifference)
    return found


def named(values: list[float]) -> tuple[tuple[str, float], ...]:
    return tuple((str(i), value) for i, value in enumerate(values))


@given(st.integers(0, 40), st.integers(1, 40), st.integers(60, 600), st.floats(0.002, 0.2))
def test_the_score_tests_error_is_that_of_the_likeliest_shares_under_the_hypothesis(
    gained: int, lost: int, same: int, margin: float
) -> None:
    n = gained + lost + same

    def unlikelihood(q: float) -> float:
        return -(
            (gained * math.log(q - margin) if gained else 0.0)
            + lost * math.log(q)
            + same * math.log(1 - 2 * q + margin)
        )

    inside = (margin + 1e-12, (1 + margin) / 2 - 1e-12)
    q = optimize.minimize_scalar(unlikelihood, bounds=inside, method="bounded", options={"xatol": 1e-12}).x
    z = ((gained - lost - 0.5) / n + margin) / math.sqrt((2 * q - margin - margin**2) / n)
    assert tango(gained, lost, n, margin) == pytest.approx(stats.norm.sf(z), abs=2e-4)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holms_correction_orders_multiplies_and_never_overtakes(p_values: list[float]) -> None:
    names = {(str(i), "task"): p for i, p in enumerate(p_values)}
    adjusted = holm(names)
    assert adjusted.keys() == names.keys()
    assert all(p <= adjusted[name] <= min(1.0, len(names) * p) + 1e-15 for name, p in names.items())
    ordered = sorted(names, key=lambda name: names[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())
    # Rejecting by corrected p-values is Holm's step-down procedure.
    for rank, name in enumerate(ordered):
        stepped = all(names[other] * (len(names) - i) <= LEVEL for i, other in enumerate(ordered[: rank + 1]))
        assert (adjusted[name] <= LEVEL) == stepped


def test_holms_correction_of_a_textbooks_p_values() -> None:
    adjusted = holm({("a", "x"): 0.01, ("b", "x"): 0.04, ("c", "x"): 0.03, ("d", "x"): 0.005})
    assert [round(p, 6) for p in adjusted.values()] == [0.02, 0.03, 0.06, 0.06]
    assert list(adjusted) == [("d", "x"), ("a", "x"), ("c", "x"), ("b", "x")]


@pytest.mark.parametrize(
    ("gained", "lost", "n", "kind"),
    [
        (200, 210, 14042, "no worse"),  # 3 % differ, .07 points lost
        (300, 513, 14042, "worse"),  # the study's GPTQ on MMLU loses 1.52 points
        (16, 10, 164, "cannot tell"),  # its INT8 on HumanEval gains 3.66
        (40, 50, 1319, "cannot tell"),
        (0, 0, 164, "cannot tell"),
        (0, 0, 400, "no worse"),
    ],
)
def test_verdicts(gained: int, lost: int, n: int, kind: str) -> None:
    found = change(gained, lost, n)
    verdict = judge_loss(found, found.p_value, MARGIN)
    assert verdict.kind == kind
    assert (verdict.items_needed is None) == (kind != "cannot tell")
    if verdict.items_needed is not None:
        assert verdict.items is not None and verdict.items.low is not None
        assert n < verdict.items.low <= verdict.items_needed
        assert verdict.text.startswith(f"cannot tell within 1 point: some {verdict.items_needed:,} items (")


def test_a_loss_that_only_stands_alone_is_not_called_worse() -> None:
    found = change(10, 30, 600)
    assert found.p_value < LEVEL
    assert judge_loss(found, found.p_value, MARGIN).kind == "worse"
    assert judge_loss(found, 30 * found.p_value, MARGIN).kind == "cannot tell"
    assert judge_loss(found, found.p_value, MARGIN, comparisons=30).kind == "cannot tell"


def test_a_loss_that_is_shown_but_may_be_within_the_margin_is_not_called_worse() -> None:
    """1.7 points, and 0.3 to 3.0 at 90 %: clear of zero, and not of the margin."""
    found = change(5, 15, 600)
    assert found.p_value < LEVEL and found.is_clear
    assert judge_loss(found, found.p_value, MARGIN).kind == "cannot tell"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(30, 3000), st.floats(0.001, 1))
def test_worse_is_never_said_where_the_interval_crosses_zero(gained: int, lost: int, same: int, p: float) -> None:
    found = change(gained, lost, gained + lost + same)
    verdict = judge_loss(found, p, MARGIN)
    if verdict.kind == "worse":
        assert found.interval is not None and found.interval.high < 0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(30, 3000), st.floats(0.002, 0.1))
def test_the_interval_that_is_shown_is_that_of_the_verdict(gained: int, lost: int, same: int, margin: float) -> None:
    """Half of the tables called no worse had a 95 % interval that reached beyond the margin."""
    verdict = judge_loss(change(gained, lost, gained + lost + same), 0.0, margin)
    assert verdict.interval is not None
    low, high = verdict.interval.low, verdict.interval.high
    assert (verdict.kind == "no worse") == (low > -margin) or abs(low + margin) < 1e-6
    assert (verdict.p_worse <= LEVEL) == (high < -margin) or abs(high + margin) < 1e-6


@pytest.mark.parametrize(("gained", "lost", "least"), [(0, 0, 361), (1, 1, 432)])
def test_the_fewest_items_are_those_of_the_test_itself(gained: int, lost: int, least: int) -> None:
    """201 of 200 items and 401 of 400 were printed, and the verdict stayed the same."""
    assert tango(gained, lost, least, MARGIN) <= LEVEL < tango(gained, lost, least - 1, MARGIN)
    needed = items_needed(gained, lost, 200, MARGIN)
    assert needed.low is not None and needed.low >= least


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "comparisons", "kind"),
    [
        (0.02, 0.02, 0.01, 1, "no worse"),
        (0.005, 0.005, 0.01, 1, "no worse"),
        (0.01, 0.015, 0.01, 1, "no worse"),
        (0.04, 0.04, 0.085, 28, "no worse"),
        (0.02, 0.04, 0.01, 28, "worse"),
        (0.045, 0.075, 0.01, 28, "worse"),
        (0.03, 0.06, 0.01, 1, "worse"),
    ],
)
def test_so_many_items_decide_four_times_in_five(
    gained: float, lost: float, margin: float, comparisons: int, kind: str
) -> None:
    wanted = math.ceil(decided(np.array(gained), np.array(lost), margin, comparisons))
    drawn = np.random.default_rng(0).multinomial(wanted, [gained, lost, 1 - gained - lost], size=1500)
    found = []
    for b, c, _ in drawn:
        p = min(1.0, comparisons * mcnemar(int(b), int(c)))
        found.append(judge_loss(counted_difference(int(b), int(c), wanted), p, margin, comparisons=comparisons).kind)
    assert 0.76 < np.mean([verdict == kind for verdict in found]) < 0.86


def test_the_number_of_items_is_a_range_within_the_set() -> None:
    pilot = items_needed(10, 11, 400, MARGIN, available=14042)
    assert pilot.low is not None and pilot.likely is not None and pilot.high is not None
    assert pilot.low < pilot.likely < pilot.high and pilot.within_set
    assert pilot.text() == f"some {pilot.likely:,} items ({pilot.low:,} to more than the 14,042 that exist)"
    small = items_needed(0, 0, 164, MARGIN, available=164)
    assert not small.within_set and small.text("problems") == "more than the 164 problems that exist"
    verdict = judge_loss(change(0, 0, 164), 1.0, MARGIN, available=164)
    assert verdict.items_needed is None
    assert verdict.text == "cannot tell within 1 point: more than the 164 items that exist needed to decide"
    # A loss of just the margin is undecided for ever.
    assert items_needed(20, 30, 1000, MARGIN).text() == "more items than any set has"


@pytest.mark.slow
def test_the_range_holds_the_number_for_the_true_shares() -> None:
    draw = np.random.default_rng(0)
    # A loss of exactly the margin takes infinitely many items, which no range holds; this one is not far from it.
    for gained, lost in ((0.03, 0.03), (0.01, 0.01), (0.02, 0.027), (0.02, 0.05)):
        truth = float(decided(np.array(gained), np.array(lost), MARGIN, 1))
        inside = []
        for b, c, _ in draw.multinomial(400, [gained, lost, 1 - gained - lost], size=300):
            found = items_needed(int(b), int(c), 400, MARGIN)
            assert found.low is not None
            high = found.high if found.high is not None else math.inf
            # The total is never less than what was answered, and rounded up to two digits.
            inside.append(found.low <= 1.1 * max(truth, 401) and truth <= high)
        print(f"{gained} {lost}: {truth}, inside {np.mean(inside):.3f}")
        assert np.mean(inside) >= 0.8


@pytest.mark.parametrize(
    ("available", "points", "never"), [(14042, 1.0, 0.03), (1319, 3.0, 0.28), (164, 8.5, 2.18), (None, 1.0, None)]
)
def test_a_small_set_has_a_wider_margin(available: int | None, points: float, never: float | None) -> None:
    found = task_margin(None, available)
    assert found.margin == pytest.approx(points / 100) and found.is_widened == (points > 1)
    assert (found.never_shown is None) == (never is None)
    if found.never_shown is not None and available is not None:
        assert 100 * found.never_shown == pytest.approx(never, abs=0.005)
        # In 19 of 20 cases equals are found no worse, although 8 % of their answers differ.
        drawn = np.random.default_rng(0).multinomial(available, [0.04, 0.04, 0.92], size=4000)
        assert np.mean(p_above(drawn[:, 0], drawn[:, 1], available, -found.margin) <= LEVEL) > 0.94
    assert task_margin(0.02, 164).margin == 0.02


def test_several_wide_margins_do_not_add_up() -> None:
    """Each of four sets of 164 items loses 5 points of an accepted 8.5, and all together more than 3."""
    four = [counted_difference(2, 10, 164)] * 4
    assert all(judge_loss(each, 1.0, 0.12).kind == "no worse" for each in four)
    small = [task_margin(None, 164)] * 4
    assert mean_margin(small) == 0.03
    assert mean_margin([task_margin(0.085, 164)] * 4) == 0.085
    assert mean_margin([task_margin(None, 14042), *small]) == 0.03
    together, equal = judge_mean(four, 0.03), judge_mean([counted_difference(4, 4, 400)] * 4, 0.03)
    assert together is not None and not together.is_within
    assert equal is not None and equal.is_within


@pytest.mark.parametrize(
    ("accuracy", "low", "chance", "margin", "blind"),
    [
        (0.247, 0.24, 0.25, 0.01, "BF16 itself scores 24.7 %, near the 25.0 % of guessing"),
        (0.0167, 0.011, 0.0, 0.03, "BF16 itself scores only 1.7 %"),
        (0.65, 0.64, 0.25, 0.01, ""),
        (0.6, 0.52, 0.0, 0.085, ""),
    ],
)
def test_near_chance_a_task_cannot_show_a_loss(
    accuracy: float, low: float, chance: float, margin: float, blind: str
) -> None:
    assert blindness(accuracy, low, chance, margin) == blind
    verdict = judge_loss(change(200, 210, 14042), 1.0, margin, blind=blind)
    assert verdict.kind == ("cannot tell" if blind else "no worse")
    assert verdict.text == (
        f"cannot tell: {blind}" if blind else f"no worse (within {100 * margin:g} point{'s' * (margin != 0.01)})"
    )


def test_a_verdict_that_an_earlier_release_stored_is_of_one_comparison() -> None:
    found = LossVerdict(kind="cannot tell", margin=MARGIN, p_no_worse=1.0, p_worse=1.0, p_holm=1.0, blind="near chance")
    assert found.comparisons == judge_loss(change(3, 4, 300), 1.0, MARGIN).comparisons == 1
    assert found.text == "cannot tell: near chance"


def test_graded_scores_have_a_t_test() -> None:
    draw = np.random.default_rng(0)
    theirs = draw.uniform(0.2, 0.8, 4000)
    same = paired_difference(named(list(theirs + draw.normal(0, 0.02, 4000))), named(list(theirs)))
    lower = paired_difference(named(list(theirs - 0.02 + draw.normal(0, 0.02, 4000))), named(list(theirs)))
    assert isinstance(same, PairedDifference) and isinstance(lower, PairedDifference)
    assert judge_loss(same, same.p_value, MARGIN).kind == "no worse"
    assert judge_loss(lower, lower.p_value, MARGIN).kind == "worse"
    differences = [ours - t for (_, ours), t in zip(named(list(theirs - 0.02)), theirs, strict=True)]
    expected = stats.ttest_1samp(
        [d + 0.001 * (-1) ** i for i, d in enumerate(differences)], -0.01, alternative="greater"
    )
    shifted = named([t - 0.02 + 0.001 * (-1) ** i for i, t in enumerate(theirs)])
    found = paired_difference(shifted, named(list(theirs)))
    assert isinstance(found, PairedDifference)
    assert judge_loss(found, found.p_value, MARGIN).p_no_worse == pytest.approx(expected.pvalue, abs=1e-6)


def test_graded_scores_that_differ_alike_are_certain() -> None:
    """Each item loses a quarter: less than a half, more than an eighth, and not more than a quarter."""
    found = paired_difference(named([0.5] * 8), named([0.75] * 8))
    assert isinstance(found, PairedDifference) and found.method == "paired t"
    assert [(p_within(found, margin), p_beyond(found, margin)) for margin in (0.125, 0.25, 0.5)] == [
        (1.0, 0.0),
        (1.0, 1.0),
        (0.0, 1.0),
    ]
    assert loss_interval(found) == Interval(low=-0.25, high=-0.25)


@pytest.mark.parametrize(("n", "kind"), [(1, "cannot tell"), (16, "cannot tell"), (400, "no worse")])
def test_equal_graded_scores_show_no_more_than_equal_answers(n: int, kind: str) -> None:
    """A t test without variance took one equal score for proof that nothing was lost."""
    found = paired_difference(named([0.4] * n), named([0.4] * n))
    assert isinstance(found, PairedDifference)
    verdict = judge_loss(found, found.p_value, MARGIN)
    assert verdict.kind == kind and verdict.p_no_worse == tango(0, 0, n, MARGIN)
    assert verdict.interval is not None and verdict.interval.low < -1 / (4 * n)


@pytest.mark.parametrize("ours", [0.1, 0.9])
def test_a_single_graded_item_decides_nothing(ours: float) -> None:
    found = paired_difference(named([ours]), named([0.5]))
    assert isinstance(found, PairedDifference)
    assert p_within(found, 0.01) == p_beyond(found, 0.01) == 1
    verdict = judge_loss(found, 0.0, 0.01)
    # Its variance is not known: two items were said to be enough.
    assert verdict.kind == "cannot tell" and verdict.items is not None and (verdict.items.high or 10**6) > 10_000


def test_the_items_that_would_tell_are_searched_by_the_test_of_the_scores() -> None:
    """Right and wrong answers have a score test, graded ones a t test of their own variance."""
    answers = change(3, 4, 300)
    found = judge_loss(answers, 1.0, MARGIN).items
    assert found == items_needed(3, 4, 300, MARGIN)
    assert found != items_needed_graded(answers.difference, 7 / 300, 300, MARGIN)
    differences = np.random.default_rng(1).normal(-0.005, 0.2, 400)
    graded = paired_difference(named((0.5 + differences).tolist()), named([0.5] * 400))
    assert isinstance(graded, PairedDifference)
    expected = items_needed_graded(differences.mean(), differences.var(ddof=1), 400, MARGIN)
    assert judge_loss(graded, 1.0, MARGIN).items == expected


def test_graded_scores_have_the_interval_of_both_t_tests() -> None:
    differences = np.array([0.1, -0.3, 0.05, -0.2, 0.0, -0.1])
    found = paired_difference(named([0.5] * 6), named((0.5 - differences).tolist()))
    assert isinstance(found, PairedDifference)
    error = float(stats.sem(differences))
    half = stats.t.ppf(0.95, 5) * error
    around = loss_interval(found)
    assert around is not None
    assert (around.low, around.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    within = stats.ttest_1samp(differences, -0.1, alternative="greater").pvalue
    assert p_within(found, 0.1) == pytest.approx(within) and p_beyond(found, 0.1) == pytest.approx(1 - within)


def record(name: str, scores: list[float], **more: int) -> Record:
    nothing = Missing(reason="not measured")
    task = TaskScores(
        task="t",
        metric="acc",
        value=float(np.mean(scores)),
        n=len(scores),
        asked=len(scores),
        scores=named(scores),
        **more,
    )
    return Record(
        name=name,
        label=name.upper(),
        family="baseline" if name == "bf16" else "weights only",
        is_baseline=name == "bf16",
        emulated=(),
        size=nothing,
        speed=nothing,
        tasks={"T": task},
    )


def test_the_table_corrects_for_all_its_comparisons() -> None:
    baseline = [1.0] * 100 + [0.0] * 500
    variants = [record(f"v{i}", [0.0] * 12 + [1.0] * 88 + [0.0] * (500 - i) + [1.0] * i) for i in range(6)]
    table = compare([record("bf16", baseline), *variants], ["T"])
    cells = [row.tasks["T"] for row in table.rows]
    assert all(isinstance(cell, TaskCell) for cell in cells)
    assert isinstance(cells[0].loss, Missing) and cells[0].loss.reason == "the baseline itself"
    for cell in cells[1:]:
        assert not isinstance(cell.loss, Missing)
        assert cell.loss.p_holm >= cell.change.p_value and cell.loss.margin == MARGIN
    assert cells[1].loss.p_holm == pytest.approx(6 * cells[1].change.p_value)
    wide = compare([record("bf16", baseline), *variants], ["T"], {"T": 0.1})
    assert {row.tasks["T"].loss.kind for row in wide.rows[1:]} <= {"no worse", "cannot tell"}
    assert all(row.tasks["T"].loss.margin == 0.1 for row in wide.rows[1:])


def test_answers_that_run_on_are_compared_in_pairs() -> None:
    """16 of 60 answers reach the limit where 2 of BF16's do; the counts alone say less than the pairs."""

    def cut(name: str, items: set[int], *, stored: bool = True) -> Record:
        made = record(name, [1.0] * 60, unfinished=len(items))
        task = made.tasks["T"].model_copy(
            update={"cut": named([float(i in items) for i in range(60)]) if stored else None}
        )
        return made.model_copy(update={"tasks": {"T": task}})

    table = compare([cut("bf16", {0, 1}), cut("awq", set(range(16))), cut("fp8", {0, 2})], ["T"])
    paired, same = (row.tasks["T"].cut for row in table.rows[1:])
    assert (paired.here, paired.baseline, paired.n, paired.method) == (16, 2, 60, "McNemar")
    assert paired.p_value == pytest.approx(2 * 0.5**14) and paired.p_holm == pytest.approx(2 * paired.p_value)
    assert paired.is_more and not same.is_more
    counted = compare([cut("bf16", {0, 1}, stored=False), cut("awq", set(range(16)))], ["T"]).rows[1].tasks["T"].cut
    assert counted.method == "Fisher" and paired.p_value < counted.p_value < 0.01 and counted.is_more


def test_prompts_that_were_cut_and_answers_that_did_not_end_are_noted() -> None:
    table = compare([record("bf16", [1.0, 0.0]), record("awq", [1.0, 0.0], truncated=1, unfinished=2)], ["T"])
    assert "Prompts of T that lost their beginning in the context: AWQ 1 of 2." in table.notes
    assert "Answers of T that reached the token limit: AWQ 2 of 2." in table.notes


def test_what_greedy_answers_differ_by_alone_is_noted() -> None:
    for differing, said in (
        (1, "1 of 50 greedy answers of T differed when repeated, "),
        (0, "all 50 greedy answers of T were identical when repeated"),
    ):
        bf16 = record("bf16", [1.0, 0.0], asked_again=50, differing=differing)
        table = compare([bf16, record("awq", [1.0, 0.0])], ["T"])
        (note,) = [note for note in table.notes if "when repeated" in note]
        assert note.startswith(f"BF16: {said}")


def test_a_task_with_several_filters_keeps_the_figure_of_each() -> None:
    one, several = record("bf16", [1.0, 0.0]), record("awq", [1.0, 0.0])
    figures = {"strict-match": 0.25, "flexible-extract": 0.5}
    task = several.tasks["T"].model_copy(update={"filters": figures})
    table = compare([one, several.model_copy(update={"tasks": {"T": task}})], ["T"])
    assert [row.tasks["T"].filters for row in table.rows] == [{}, figures]


# Items of the study's four tasks and of samples of them, and the shares of answers that differ.
SIZES = (164, 300, 400, 1319, 1346, 14042)
RATES = (0.02, 0.04, 0.06, 0.1, 0.15)
DRAWS = 20_000


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    """95 +-1.5 % wherever twenty items or more differ; with fewer, never below, and at times above."""
    draw = np.random.default_rng(0)
    lines = []
    for n in SIZES:
        for rate in RATES:
            for difference in (0.0, -0.01, -0.02):
                if n * rate < 3 or rate < -difference:
                    continue
                shares = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
                counts, times = np.unique(draw.multinomial(n, shares, size=DRAWS)[:, :2], axis=0, return_counts=True)
                inside = [adjusted_wald(int(b), int(c), n).contains(difference) for b, c in counts]
                covered = float(np.dot(inside, times)) / DRAWS
                lines.append(f"n {n:5d}, {100 * rate:2.0f} % differ, difference {100 * difference:+.0f}: {covered:.4f}")
                print(lines[-1])
                assert covered >= 0.935, lines[-1]
                assert n * rate < 20 or covered <= 0.965, lines[-1]


@pytest.mark.slow
def test_the_bootstrap_covers_as_often_as_it_says_where_twenty_items_differ() -> None:
    draw = np.random.default_rng(0)
    for n in SIZES[:-1]:
        for rate in RATES:
            for difference in (0.0, -0.02):
                if n * rate < 20 or rate < -difference:
                    continue
                shares = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
                counts, times = np.unique(draw.multinomial(n, shares, size=4_000)[:, :2], axis=0, return_counts=True)
                found = [bootstrap_mean(np.repeat((1.0, -1.0, 0.0), (b, c, n - b - c)).tolist()) for b, c in counts]
                # The difference lies on the lattice of means, where the ends do, too.
                inside = [i is not None and i.low - 1e-12 <= difference <= i.high + 1e-12 for i in found]
                covered = float(np.dot(inside, times)) / 4_000
                print(f"n {n:5d}, {100 * rate:2.0f} % differ, difference {100 * difference:+.0f}: {covered:.4f}")
                assert 0.935 <= covered <= 0.965


@pytest.mark.slow
def test_no_worse_errs_in_at_most_five_percent() -> None:
    """A variant that loses exactly the margin is called no worse in at most one case of twenty."""
    draw = np.random.default_rng(0)
    # Three standard deviations of a share of DRAWS at 5 %.
    slack = 3 * math.sqrt(0.05 * 0.95 / DRAWS)
    for n in SIZES:
        for rate in RATES:
            for margin in (0.005, 0.01, 0.02):
                if rate < margin:
                    continue
                shares = [(rate - margin) / 2, (rate + margin) / 2, 1 - rate]
                counts, times = np.unique(draw.multinomial(n, shares, size=DRAWS)[:, :2], axis=0, return_counts=True)
                said = [tango(int(b), int(c), n, margin) <= LEVEL for b, c in counts]
                erred = float(np.dot(said, times)) / DRAWS
                print(f"n {n:5d}, {100 * rate:2.0f} % differ, margin {100 * margin:g}: {erred:.4f}")
                assert erred <= 0.05 + slack


@pytest.mark.slow
def test_worse_errs_in_at_most_five_percent() -> None:
    """A variant that loses exactly the margin is called worse in at most one case of twenty."""
    draw = np.random.default_rng(0)
    slack = 3 * math.sqrt(0.05 * 0.95 / DRAWS)
    for n in SIZES:
        for rate in RATES:
            for margin in (0.005, 0.01, 0.02):
                if rate < margin:
                    continue
                shares = [(rate - margin) / 2, (rate + margin) / 2, 1 - rate]
                counts, times = np.unique(draw.multinomial(n, shares, size=DRAWS)[:, :2], axis=0, return_counts=True)
                said = p_below(counts[:, 0], counts[:, 1], n, -margin) <= LEVEL
                erred = float(np.dot(said, times)) / DRAWS
                assert erred <= 0.05 + slack, (n, rate, margin)
