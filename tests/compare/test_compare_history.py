"""What changed between runs, and what of it is beyond noise."""

import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.history import Figure, RunName, Snapshot, difference, history
from pipeline.compare.stats.accuracy import wilson
from pipeline.results.base import Missing

THROUGHPUT = "total_token_throughput"


def snapshot(*records, name="run", machine="box", load="1000 prompts", model="tiny", **more):
    run = RunName(name=name, model=model, machine=machine, measured="2026-11-25", load=load)
    return Snapshot(run=run, comparison=compare(records, TASKS), **more)


def moves(*runs, tolerance=2.0):
    return {(c.variant, c.column): c for c in history(runs, tolerance).results}


def test_only_what_is_beyond_noise_and_tolerance_is_worse():
    then = snapshot(record("bf16"), record("a", 1500, n=400), record("b", 1500, n=400))
    now = snapshot(record("bf16"), record("a", 1200, n=400, wrong=1), record("b", 1490, n=400, wrong=60, size=120))
    found = moves(then, now)
    assert found["a", THROUGHPUT].movement == "worse" and found["a", THROUGHPUT].change == pytest.approx(-20)
    assert found["a", "MMLU"].movement == "same"
    assert found["b", THROUGHPUT].movement == "same"
    assert found["b", "MMLU"].movement == found["b", "size"].movement == "worse"
    assert found["bf16", THROUGHPUT].movement == "same"
    # Latencies that rise are worse, too.
    assert found["a", "mean_tpot_ms"].movement == "worse"
    back = moves(now, then)
    assert back["a", THROUGHPUT].movement == back["b", "MMLU"].movement == "better"


def test_a_tolerance_forgives_what_differs_between_sessions():
    then, now = (snapshot(record("a", speed, noise=(1.0, 1.001, 0.999))) for speed in (1000, 985))
    assert moves(then, now, tolerance=0.5)["a", THROUGHPUT].movement == "worse"
    assert moves(then, now, tolerance=2.0)["a", THROUGHPUT].movement == "same"


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
    assert speed.movement == "unknown" and reason in speed.reason
    assert not [c for c in found.regressions if c.column == THROUGHPUT]


def test_two_devices_of_one_kind_are_two_machines():
    def on(*devices):
        return snapshot(record("a", 1500), devices={"a": devices} if devices else {})

    def slower(*devices):
        return snapshot(record("a", 1000), devices={"a": devices} if devices else {})

    other = moves(on("GPU-a"), slower("GPU-b"))["a", THROUGHPUT]
    assert other.movement == "unknown" and "another device of that kind (GPU-a)" in other.reason
    assert moves(on("GPU-a"), slower("GPU-b"))["a", "MMLU"].movement == "same"
    # The same device, one of two, or an unknown one.
    for then, now in ((("GPU-a",), ("GPU-a",)), (("GPU-a", "GPU-b"), ("GPU-b",)), ((), ("GPU-b",)), (("GPU-a",), ())):
        assert moves(on(*then), slower(*now))["a", THROUGHPUT].movement == "worse"


def test_single_runs_and_emulation_cannot_be_told():
    single = moves(*(snapshot(record("a", speed, noise=(1.0,))) for speed in (2000, 1000)))
    assert single["a", THROUGHPUT].movement == "unknown" and "single repeat" in single["a", THROUGHPUT].reason
    emulated = moves(*(snapshot(record("a", speed, emulated=("fp8",))) for speed in (2000, 1000)))
    assert ("a", THROUGHPUT) not in emulated and emulated["a", "MMLU"].movement == "same"


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
    assert found["a", "MMLU"].movement == "unknown" and found["a", "MMLU"].reason == "scored on other items"


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


def test_newcombes_example():
    """Newcombe 1998, table II, case (a): 56/70 against 48/80 has 0.0524 to 0.3339."""
    ours, theirs = (Figure(value=k / n, interval=wilson(k / n, n)) for k, n in ((56, 70), (48, 80)))
    around = difference(ours, theirs)
    assert (around.low, around.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_a_figure_without_interval_differs_by_an_unknown_amount():
    known, single = Figure(value=0.8, interval=wilson(0.8, 70)), Figure(value=0.5, interval=None)
    assert difference(known, single) is difference(single, known) is difference(single, single) is None


def test_equal_models_rarely_look_worse():
    """At 95 % an unchanged accuracy is called worse in about one of forty runs."""
    rng = random.Random(0)
    n, share, worse = 300, 0.8, 0
    for _ in range(2000):
        counts = [sum(rng.random() < share for _ in range(n)) for _ in range(2)]
        ours, theirs = (Figure(value=k / n, interval=wilson(k / n, n)) for k in counts)
        worse += difference(ours, theirs).high < 0
    assert 0.01 < worse / 2000 < 0.04


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything(), anything())
def test_what_moved_has_an_interval_that_says_so(then, now):
    for change in history([snapshot(*then), snapshot(*now)], 2).results:
        if change.movement in ("worse", "better"):
            assert change.interval.low > 0 or change.interval.high < 0
            assert math.isfinite(change.change)
        if change.movement == "unknown":
            assert change.reason
