"""The head of the report: deploy, keep or measure; a noisy machine is not the formats' fault."""

import pytest
from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record, with_divergences

from pipeline.compare import compare
from pipeline.compare.decide.constraints import Constraints, Requirements
from pipeline.compare.decide.decision import decide, worst_task
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.stats.sample_size import never_shown
from pipeline.results.base import Missing
from pipeline.results.bench import Guard
from pipeline.results.metrics import THROUGHPUT

LOUD = (0.7, 1.0, 1.4)


def decided(*records, needs=None, objective="throughput", **constraints):
    comparison = compare(records, TASKS)
    return decide(comparison, recommend(comparison, Constraints(**constraints), needs, objective))


def marked(made, name="warm-up"):
    guard = Guard(name=name, passed=False, text="not steady")
    return made.model_copy(update={"speed": made.speed.model_copy(update={"guards": (guard,)})})


def test_a_clear_winner_is_to_be_deployed():
    found = decided(record("bf16"), record("fast", 1300))
    assert (found.kind, found.variant, found.title, found.stages) == ("deploy", "fast", "Deploy FAST.", ())
    assert not found.needs_items
    assert found.text.startswith("+30.0 % tokens per second against BF16 (+2")
    assert "; one start of each server, widened by 2 %), no worse on 2 tasks; " in found.text
    assert "no worse on 2 tasks; a loss of more than 0." in found.text


def test_of_equal_sizes_the_one_with_less_divergence_is_deployed():
    made = record("bf16"), *(record(name, size=size) for name, size in (("fast", 47), ("close", 47), ("far", 48)))
    comparison = with_divergences(compare(made, TASKS), fast=0.0451, close=0.0104, far=0.0474)
    chosen = recommend(comparison, objective="size")
    found = decide(comparison, chosen)
    assert (found.title, found.variant, chosen.runner_up) == ("Deploy CLOSE.", "close", "fast")
    assert found.text.endswith(
        "Runner-up: FAST (KL from BF16 45.1 × 10⁻³ nats per token, against 10.4), of equal checkpoint size."
    )
    assert chosen.answer.text.endswith(
        " Of equal checkpoint size: FAST (KL from BF16 45.1 × 10⁻³ nats per token, against 10.4)."
    )
    assert chosen.reasons[0].text == "Runner-up: FAST, whose checkpoint size equals that of CLOSE."
    # Where no speed was measured, the head names it as well.
    gone = Missing(reason="gone")
    untimed = [each.model_copy(update={"speed": gone}) for each in made]
    comparison = with_divergences(compare(untimed, TASKS), fast=0.0451, close=0.0104, far=0.0474)
    found = decide(comparison, recommend(comparison))
    assert found.text.endswith("Smallest that is no worse: CLOSE, 0.47 of BF16's size.")


def test_the_loss_that_is_ruled_out_is_told_in_points():
    """All of 40 answers are the same: what such a set cannot show is ruled out no less."""
    comparison = compare([record("bf16", n=40), record("fast", 1300, n=40)], TASKS, 0.2)
    found = decide(comparison, recommend(comparison))
    assert found.title == "Deploy FAST."
    assert f"; a loss of more than {100 * never_shown(40):.1f} points is ruled out (MMLU)." in found.text
    assert f"{100 * never_shown(40):.1f}" != f"{101 * never_shown(40):.1f}"


def test_faster_but_worse_keeps_bf16_and_names_the_loss():
    found = decided(record("bf16"), record("fast", 1500, wrong=30))
    assert (found.kind, found.variant, found.title) == ("keep", "bf16", "Keep BF16.")
    assert "What is faster loses accuracy: FAST −7.5 points." in found.text
    assert "Quality: of 2 comparisons, worse in 2." in found.text


def test_no_gain_keeps_bf16_and_says_what_would_have_shown():
    found = decided(record("bf16"), record("same", 1002))
    assert found.kind == "keep" and "No format is shown to be faster; a gain of " in found.text
    assert " % would have been shown in four of five runs." in found.text


def test_a_noisy_machine_is_called_so():
    found = decided(record("bf16", noise=LOUD), record("fast", 1100, noise=LOUD), record("slow", 900, noise=LOUD))
    assert (found.kind, found.variant) == ("measure", None)
    assert found.title == "No speed answer: BF16 itself varied by 2.0 times."
    assert found.stages == ("bench",) and "Repeat it on an idle machine." in found.text
    assert "Quality: of 4 comparisons, no worse in 4." in found.text
    assert "FAST" not in found.title + found.text.partition("Quality")[0]


@pytest.mark.parametrize(
    ("times", "smallest", "noisy"),
    [(1.5, 5.0, True), (1.49, 5.0, False), (1.1, 30.0, True), (1.1, 29.9, False), (1.1, None, False)],
)
def test_noise_is_too_much_from_half_as_fast_again_or_a_hidden_gain_of_thirty_percent(times, smallest, noisy):
    table = compare([record("bf16", noise=(1.0, 1.0, times)), record("same", noise=(1.0, 1.0, times))], TASKS)
    gains = {} if smallest is None else {THROUGHPUT.name: smallest}
    table = table.model_copy(update={"smallest_gains": gains})
    found = decide(table, recommend(table))
    assert found.title.startswith("No speed answer: BF16 itself varied" if noisy else "Keep BF16.")


@pytest.mark.parametrize("which", ["bf16", "fast"])
def test_a_failed_guard_leaves_no_answer_on_speed(which):
    records = [record("bf16"), record("fast", 1300)]
    found = decided(*(marked(each) if each.name == which else each for each in records))
    assert found.title == "No speed answer: the measurement is unreliable." and found.stages == ("bench",)
    assert f"Guards failed while {which.upper()} ran: warm-up. BF16 itself varied by 2 %." in found.text


def test_a_load_that_the_cpu_limited_is_called_so_however_noisy():
    records = [record("bf16", noise=LOUD), record("fast", 1100, noise=LOUD)]
    found = decided(*(marked(each, "bottleneck") for each in records))
    assert found.title == "No speed answer: the engine was not the bottleneck." and found.stages == ("bench",)
    assert "--api-server-count=4" in found.serve_args and "idle machine" not in found.text


def test_a_marked_variant_does_not_hide_a_sound_one():
    assert decided(record("bf16"), marked(record("odd", 1500)), record("fast", 1300)).title == "Deploy FAST."


def test_what_was_not_scored_is_to_be_scored():
    found = decided(record("bf16", tasks={}), record("fast", 1300, tasks=Missing(reason="eval has not run")))
    assert found.title == "Fastest so far: FAST; its quality is not measured."
    assert found.stages == ("eval",) and not found.needs_items


def test_too_few_items_ask_for_more():
    found = decided(record("bf16", n=100), record("fast", 1300, wrong=1, n=100))
    assert found.title == "Fastest so far: FAST; its quality cannot be told yet."
    assert found.stages == ("eval",) and found.needs_items and "cannot tell on MMLU and GSM8K" in found.text


def test_an_emulated_format_asks_for_another_machine():
    found = decided(record("bf16"), record("fp8", 9000, emulated=("fp8",)))
    assert found.title == "No speed answer: this machine emulates the formats." and found.stages == ()
    assert "Run it on the GPU that you deploy on." in found.text


def test_without_results_or_baseline_there_is_no_answer():
    gone = Missing(reason="gone")
    assert decided(record("bf16", speed=gone, tasks=gone)).stages == ("bench", "eval")
    assert "variants needs bf16" in decided(record("fast", 1300)).text


def test_speeds_of_another_machine_are_said_to_be_so():
    needs = {name: Requirements(memory_gib=1.0, measured_on="AMD EPYC") for name in ("bf16", "fast")}
    found = decided(record("bf16"), record("fast", 1300), needs=needs, hardware="L40S")
    assert found.title == "Deploy FAST." and "Speeds were measured on AMD EPYC, not on L40S." in found.text
    limited = decided(record("bf16"), record("fast", 1300), needs=needs, hardware="L40S", ttft_p99_ms=500)
    assert limited.kind == "measure" and "Speeds were measured on AMD EPYC, not on L40S." in limited.text


def test_the_smallest_is_named_where_no_speed_counts():
    small, tiny = record("small", 1000, size=60), record("tiny", 1000, size=30, wrong=60)
    assert "Smallest that is no worse: SMALL, 0.60 of BF16's size." in decided(record("bf16"), small, tiny).text
    found = decided(record("bf16"), small, tiny, objective="size")
    assert found.title == "Deploy SMALL." and found.text.startswith("40 % smaller than BF16, no worse")


def test_the_worst_task_is_the_one_with_the_worst_word():
    rows = compare([record("bf16"), record("a", wrong=30)], TASKS).rows
    task, cell = worst_task(rows[1])
    assert task in TASKS and cell.is_loss
    assert worst_task(rows[0]) is None


def test_of_equal_words_the_largest_loss_that_is_not_ruled_out_is_the_worst():
    few, more = (compare([record("bf16"), record("a", wrong=wrong)], TASKS).rows[1].tasks for wrong in (2, 6))
    row = compare([record("bf16"), record("a")], TASKS).rows[1]
    for worst, other in (("MMLU", "GSM8K"), ("GSM8K", "MMLU")):
        mixed = row.model_copy(update={"tasks": {task: {worst: more, other: few}[task][task] for task in TASKS}})
        assert worst_task(mixed)[0] == worst
    # A loss that is shown is worse than one that may be.
    lossy = compare([record("bf16"), record("a", wrong=30)], TASKS).rows[1].tasks
    assert worst_task(row.model_copy(update={"tasks": {"MMLU": few["MMLU"], "GSM8K": lossy["GSM8K"]}}))[0] == "GSM8K"


def test_items_are_asked_for_only_if_the_fastest_needs_them():
    unscored = record("fast", 1500, tasks=Missing(reason="eval has not run"))
    found = decided(record("bf16", n=100), unscored, record("mid", 1300, wrong=1, n=100))
    assert found.title == "Fastest so far: FAST; its quality is not measured." and not found.needs_items
    assert decided(record("bf16", n=100), record("mid", 1300, wrong=1, n=100)).needs_items


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything())
def test_the_head_is_short_and_deploys_only_what_is_recommended(records):
    comparison = compare(records, TASKS)
    chosen = recommend(comparison)
    found = decide(comparison, chosen)
    assert len(f"{found.title} {found.text}".split()) <= 62
    assert (found.kind == "deploy") == (chosen.recommended not in (None, "bf16"))
    assert found.variant is None or found.kind != "measure"
