"""What changed between runs, and what of it is beyond noise."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.history import ALL_TASKS, RunName, Snapshot, history
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell, Estimate
from pipeline.results.base import Missing
from pipeline.results.item_scores import ItemScores

THROUGHPUT = "total_token_throughput"


def snapshot(*records, name="run", machine="box", load="1000 prompts", model="tiny", paired=True, **more):
    run = RunName(name=name, model=model, machine=machine, measured="2026-11-25", load=load)
    answers = {
        r.name: {task: ItemScores.of(scored.scores) for task, scored in r.tasks.items()}
        for r in records
        if paired and not isinstance(r.tasks, Missing)
    }
    return Snapshot(run=run, comparison=compare(records, TASKS), answers=answers, **more)


def moves(*runs, tolerance=2.0):
    return {(c.variant, c.column): c for c in history(runs, tolerance).results}


def test_only_what_is_beyond_noise_and_tolerance_is_worse():
    then = snapshot(record("bf16"), record("a", 1500, n=400), record("b", 1500, n=400))
    now = snapshot(record("bf16"), record("a", 1200, n=400, wrong=0), record("b", 1490, n=400, wrong=60, size=120))
    found = moves(then, now)
    assert found["a", THROUGHPUT].movement == "worse" and found["a", THROUGHPUT].change == pytest.approx(-20)
    assert found["a", "MMLU"].movement == "unchanged"
    assert found["b", THROUGHPUT].movement == "unchanged"
    assert found["b", "MMLU"].movement == found["b", "size"].movement == "worse"
    assert found["bf16", THROUGHPUT].movement == "unchanged"
    # Latencies that rise are worse, too.
    assert found["a", "mean_tpot_ms"].movement == "worse"
    back = moves(now, then)
    assert back["a", THROUGHPUT].movement == back["b", "MMLU"].movement == "better"


def test_a_tolerance_forgives_what_differs_between_sessions():
    then, now = (snapshot(record("a", speed, noise=(1.0, 1.001, 0.999))) for speed in (1000, 985))
    assert moves(then, now, tolerance=0.3)["a", THROUGHPUT].movement == "worse"
    # Of two sessions that vary by 0.5 % each, one is 1.5 % below the other by chance in 3 of 100 pairs.
    found = moves(then, now, tolerance=0.5)["a", THROUGHPUT]
    assert found.movement == "cannot tell" and found.reason == "two sessions may differ by as much"
    assert moves(then, now, tolerance=2.0)["a", THROUGHPUT].movement == "unchanged"


def test_a_change_that_may_be_large_is_undecided_not_the_same():
    """-31.5 % (-57 to +9) was called the same."""
    then = snapshot(record("a", 1000, noise=(1.0, 1.3, 0.75)))
    now = snapshot(record("a", 700, noise=(1.2, 0.8, 1.1)))
    found = moves(then, now)["a", THROUGHPUT]
    assert found.interval.low < -50 and found.interval.high > 5
    assert found.movement == "cannot tell" and found.may_be_worse and "not shown to be within 2 %" in found.reason


def test_a_change_that_may_only_be_an_improvement_is_undecided_but_not_worse():
    then, now = (snapshot(record("a", s, noise=f)) for s, f in ((1000, (1.0, 1.01, 0.99)), (1030, (1.01, 1.0, 0.99))))
    found = moves(then, now)["a", THROUGHPUT]
    assert found.movement == "cannot tell" and -2 < found.interval.low < found.interval.high and not found.may_be_worse
    assert not [c for c in history([then, now], 2).undecided if c.column == THROUGHPUT]


def test_the_answers_to_the_same_items_are_compared_in_pairs():
    """A loss of 9 of 300 items that two independent shares cannot show, and 26 of 1,319."""
    for n, lost in ((300, 9), (1319, 26)):
        then, now = (snapshot(record("a", n=n, wrong=wrong)) for wrong in (n // 4, n // 4 + lost))
        assert moves(then, now)["a", "MMLU"].movement == "worse"
        assert moves(then, now)["a", "MMLU"].p_holm == pytest.approx(2 * 2 / 2**lost)
        assert moves(then, now)["a", "MMLU"].reason == f"0 gained, {lost} lost"
        old = snapshot(record("a", n=n, wrong=n // 4), paired=False, name="monday")
        found = moves(old, now)["a", "MMLU"]
        assert found.movement == "cannot tell" and found.reason == (
            "a loss of 1 point is not ruled out; "
            "compared as independent samples, which detects less: monday has no answers to pair"
        )


def test_all_tasks_together_show_a_loss_that_none_shows_alone():
    then, now = (snapshot(record("a", n=100, wrong=wrong)) for wrong in (20, 25))
    found = moves(then, now)
    assert found["a", "MMLU"].movement == found["a", "GSM8K"].movement == "cannot tell"
    # 10 lost of 10 changed: 2 / 2^10, corrected for three figures.
    assert found["a", ALL_TASKS].movement == "worse" and found["a", ALL_TASKS].p_holm == pytest.approx(3 * 2 / 2**10)
    assert ("a", ALL_TASKS) not in moves(snapshot(record("a"), paired=False), now)


def test_identical_answers_are_the_same_however_few():
    both = [snapshot(record("a", n=20, wrong=3)) for _ in range(2)]
    assert moves(*both)["a", "MMLU"].movement == "unchanged" and not moves(*both)["a", "MMLU"].may_be_worse


def test_answers_to_other_items_are_not_paired():
    then, now = snapshot(record("a")), snapshot(record("a"))
    other = ItemScores.of([(f"another {i}", 1.0) for i in range(100)])
    now = now.model_copy(update={"answers": {"a": dict.fromkeys(TASKS, other)}})
    found = moves(then, now)
    assert found["a", "MMLU"].movement == "not compared" and found["a", "MMLU"].reason == "scored on other items"


def test_p_values_are_corrected_for_all_figures_of_a_family():
    """Six lost of six is clear for one figure, not for one of many."""
    few = [snapshot(record("a", n=50, wrong=w)) for w in (5, 12)]
    assert moves(*few)["a", "MMLU"].movement == "worse"
    many = [snapshot(record("a", n=50, wrong=w), *(record(name, n=50, wrong=5) for name in "bcdefgh")) for w in (5, 12)]
    assert moves(*many)["a", "MMLU"].movement == "cannot tell"


def test_a_divergence_is_compared_conversation_by_conversation():
    def cell(figures):
        kl = sum(figures) / 1000
        whole = Estimate(value=kl, interval=Interval(low=0.7 * kl, high=1.4 * kl))
        named = {"agreement": whole, "perplexity_ratio": whole, "by_position": (), "worst_share": None}
        return DivergenceCell(kl=whole, **named, sequences=len(figures), tokens=1000, top_k=20, by_sequence=figures)

    def run(figures):
        found = snapshot(record("a"))
        rows = tuple(row.model_copy(update={"divergence": cell(figures)}) for row in found.comparison.rows)
        return found.model_copy(update={"comparison": found.comparison.model_copy(update={"rows": rows})})

    then = (1.0, 4.0, 2.0, 8.0, 0.5, 3.0)
    grown = tuple(value * factor for value, factor in zip(then, (1.2, 1.25, 1.22, 1.23, 1.2, 1.24), strict=True))
    assert moves(run(then), run(then))["a", "kl_from_bf16"].movement == "unchanged"
    assert moves(run(then), run(then), tolerance=0.0)["a", "kl_from_bf16"].movement == "unchanged"
    larger = moves(run(then), run(tuple(value + 0.5 for value in then)))["a", "kl_from_bf16"]
    assert larger.movement == "worse" and larger.change == pytest.approx(0.003)
    # In proportion, conversations differ: the mean of the differences is uncertain, and corrected for four figures.
    assert moves(run(then), run(grown))["a", "kl_from_bf16"].movement == "cannot tell"
    assert moves(run(then), run(tuple(value * 1.001 for value in then)))["a", "kl_from_bf16"].movement == "unchanged"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"machine": "elsewhere"}, "another machine (elsewhere)"),
        ({"load": "8 prompts"}, "another load (8 prompts)"),
        ({"model": "large"}, "another model (large)"),
    ],
)
def test_what_cannot_be_compared_says_why_and_fails_nothing(other, reason):
    found = history([snapshot(record("a", 2000), **other), snapshot(record("a", 1000))], 2)
    speed = next(c for c in found.results if c.column == THROUGHPUT)
    assert speed.movement == "not compared" and reason in speed.reason
    assert not [c for c in found.regressions if c.column == THROUGHPUT]


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        (("tiny", "aa"), ("tiny", "bb"), "measured with other weights"),
        (("tiny", "aa"), ("renamed", "aa"), ""),
        # A report of an earlier release has no hash.
        (("tiny", ""), ("tiny", "bb"), ""),
        (("tiny", ""), ("large", "bb"), "measured with another model (tiny)"),
    ],
)
def test_a_model_is_told_by_its_weights_and_not_by_its_name(then, now, reason):
    def run(of):
        one = snapshot(record("a", 1000), model=of[0])
        return one.model_copy(update={"run": one.run.model_copy(update={"weights": of[1]})})

    found = history([run(then), run(now)], 2)
    assert {change.reason for change in found.results} == {reason}
    assert {change.movement == "not compared" for change in found.results} == {bool(reason)}


def test_two_devices_of_one_kind_are_two_machines():
    def on(*devices):
        return snapshot(record("a", 1500), devices={"a": devices} if devices else {})

    def slower(*devices):
        return snapshot(record("a", 1000), devices={"a": devices} if devices else {})

    other = moves(on("GPU-a"), slower("GPU-b"))["a", THROUGHPUT]
    assert other.movement == "not compared" and "another device of that kind (GPU-a)" in other.reason
    assert moves(on("GPU-a"), slower("GPU-b"))["a", "MMLU"].movement == "unchanged"
    # The same device, one of two, or an unknown one.
    for then, now in ((("GPU-a",), ("GPU-a",)), (("GPU-a", "GPU-b"), ("GPU-b",)), ((), ("GPU-b",)), (("GPU-a",), ())):
        assert moves(on(*then), slower(*now))["a", THROUGHPUT].movement == "worse"


@pytest.mark.parametrize("disturbed", ["monday", "today"])
def test_a_speed_measured_while_a_guard_failed_is_no_regression(disturbed):
    """Another process took the cores: what is slower then is to be measured again. Answers do not depend on it."""

    def run(name, speed, wrong):
        found = snapshot(record("a", speed, wrong=wrong), record("b", speed), name=name)
        marks = ("other processes: took 40 %", "GPU clock: hot") if name == disturbed else ()
        rows = [row.model_copy(update={"marks": marks if row.name == "a" else ()}) for row in found.comparison.rows]
        return found.model_copy(update={"comparison": found.comparison.model_copy(update={"rows": tuple(rows)})})

    found = moves(run("monday", 1000, 0), run("today", 700, 60))
    slow = found["a", THROUGHPUT]
    assert (slow.movement, slow.change, slow.may_be_worse) == ("not compared", None, True)
    assert slow.reason == f"measured while a guard failed in {disturbed}: other processes and GPU clock"
    assert found["b", THROUGHPUT].movement == found["a", "MMLU"].movement == "worse"


def test_single_runs_cannot_be_told():
    single = moves(*(snapshot(record("a", speed, noise=(1.0,))) for speed in (2000, 1000)))
    assert single["a", THROUGHPUT].movement == "not compared" and "single repeat" in single["a", THROUGHPUT].reason


def test_what_is_gone_is_a_regression_and_what_is_new_is_not():
    then, now = (
        snapshot(record("a"), record("b")),
        snapshot(record("a", tasks=Missing(reason="it crashed")), record("c")),
    )
    found = moves(then, now)
    assert found["b", THROUGHPUT].movement == "gone" and found["b", THROUGHPUT].reason == "not among the results"
    assert found["a", "MMLU"].movement == "gone" and found["a", "MMLU"].reason == "it crashed"
    assert found["c", THROUGHPUT].movement == "new"
    assert {c.variant for c in history([then, now], 2).regressions} == {"a", "b"}


def test_other_questions_are_not_compared():
    found = moves(snapshot(record("a", n=100)), snapshot(record("a", n=90)))
    assert found["a", "MMLU"].movement == "not compared" and found["a", "MMLU"].reason == "scored on other items"


def test_settings_and_versions_that_changed_are_listed():
    then = snapshot(
        record("a"),
        settings={"": {"Load": "x"}, "a": {"group_size": "128", "scheme": "W4A16"}},
        versions={"vllm": "0.31"},
    )
    now = snapshot(
        record("a"),
        record("b"),
        settings={"": {"Load": "x"}, "a": {"group_size": "64", "scheme": "W4A16"}, "b": {"scheme": "FP8"}},
        versions={"vllm": "0.32", "torch": "2.13"},
    )
    found = history([then, now], 2)
    assert [(c.variant, c.name, c.values) for c in found.settings] == [("a", "group_size", ("128", "64"))]
    assert [(c.name, c.values) for c in found.versions] == [("vllm", ("0.31", "0.32")), ("torch", (None, "2.13"))]


def test_several_runs_keep_all_their_figures():
    runs = [snapshot(record("a", speed), name=str(speed)) for speed in (1000, 2000, 1500)]
    found = moves(*runs)["a", THROUGHPUT]
    assert [round(f.value) for f in found.figures] == [1000, 2000, 1500]
    assert found.change == pytest.approx(-25) and found.movement == "worse"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything(), anything())
def test_what_moved_has_an_interval_that_says_so(then, now):
    for change in history([snapshot(*then), snapshot(*now)], 2).results:
        if change.movement in ("worse", "better"):
            assert change.interval.low > 0 or change.interval.high < 0
            assert math.isfinite(change.change)
        if change.movement == "not compared":
            assert change.reason
