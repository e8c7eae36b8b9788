"""Verdicts on a loss: the test's size, Holm's correction, how many items it takes, and what the table makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from pipeline.compare.comparison import TaskCell, compare
from pipeline.compare.stats.accuracy import PairedDifference, adjusted_wald, bootstrap_mean, mcnemar, paired_difference
from pipeline.compare.stats.intervals import holm
from pipeline.compare.stats.noninferiority import LEVEL, items_needed, judge_loss, tango
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
        assert verdict.items_needed > n
        assert verdict.text == f"cannot tell: {verdict.items_needed:,} items needed to decide"


def test_a_loss_that_only_stands_alone_is_not_called_worse() -> None:
    found = change(10, 30, 600)
    assert found.p_value < LEVEL
    assert judge_loss(found, found.p_value, MARGIN).kind == "worse"
    assert judge_loss(found, 30 * found.p_value, MARGIN).kind == "cannot tell"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(30, 3000), st.floats(0.001, 1))
def test_worse_is_never_said_where_the_interval_crosses_zero(gained: int, lost: int, same: int, p: float) -> None:
    found = change(gained, lost, gained + lost + same)
    verdict = judge_loss(found, p, MARGIN)
    if verdict.kind == "worse":
        assert found.interval is not None and found.interval.high < 0


@pytest.mark.parametrize(
    ("gained", "lost", "n", "kind"),
    [(20, 20, 1000, "no worse"), (50, 50, 1000, "no worse"), (48, 51, 1500, "no worse"), (5, 15, 600, "worse")],
)
def test_so_many_items_decide_four_times_in_five(gained: int, lost: int, n: int, kind: str) -> None:
    wanted = items_needed(_counted(gained, lost, n), MARGIN)
    assert wanted > n
    shares = [gained / n, lost / n, 1 - (gained + lost) / n]
    drawn = np.random.default_rng(0).multinomial(wanted, shares, size=2000)
    found = [judge_loss(_counted(int(b), int(c), wanted), mcnemar(int(b), int(c)), MARGIN) for b, c, _ in drawn]
    # McNemar's exact test and the correction for continuity take a little of it.
    assert 0.7 < np.mean([verdict.kind == kind for verdict in found]) < 0.86


def _counted(gained: int, lost: int, n: int) -> PairedDifference:
    return PairedDifference(
        difference=(gained - lost) / n,
        interval=adjusted_wald(gained, lost, n),
        bootstrap=None,
        p_value=mcnemar(gained, lost),
        n=n,
        gained=gained,
        lost=lost,
        method="adjusted Wald, McNemar",
    )


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
    found = paired_difference(named([t - 0.02 + 0.001 * (-1) ** i for i, t in enumerate(theirs)]), named(list(theirs)))
    assert isinstance(found, PairedDifference)
    assert judge_loss(found, found.p_value, MARGIN).p_no_worse == pytest.approx(expected.pvalue, abs=1e-6)


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
    wide = compare([record("bf16", baseline), *variants], ["T"], margin=0.1)
    assert {row.tasks["T"].loss.kind for row in wide.rows[1:]} == {"no worse"}


def test_prompts_that_were_cut_and_answers_that_did_not_end_are_noted() -> None:
    table = compare([record("bf16", [1.0, 0.0]), record("awq", [1.0, 0.0], truncated=1, unfinished=2)], ["T"])
    assert "AWQ: 1 of 2 prompts of T exceeded the context and were truncated at the beginning." in table.notes
    assert "AWQ: 2 of 2 answers of T reached the token limit." in table.notes


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


def test_the_bootstrap_is_scipys() -> None:
    differences = [1.0] * 14 + [-1.0] * 22 + [0.0] * 264
    found = bootstrap_mean(differences)
    assert found is not None
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)
    assert bootstrap_mean([0.0] * 5) is None
    graded = list(np.random.default_rng(2).normal(0.02, 0.1, 150))
    found = bootstrap_mean(graded)
    expected = stats.bootstrap(
        (graded,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found is not None and (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.001)


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
