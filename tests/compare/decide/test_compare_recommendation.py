"""What is recommended under constraints, and why, on stated figures and on everything that hypothesis comes up with."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.constraints import Constraints, Requirements
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.recommendation import recommend
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult, Metric
from pipeline.results.records import Record

GUARD = "other processes: another process was on the GPU"


def decided(*records, needs=None, **constraints):
    return recommend(compare(records, TASKS), Constraints(**constraints), needs)


def with_p99(made, ttft):
    metrics = {
        **made.speed.metrics,
        "p99_ttft_ms": Metric(unit="ms", values=tuple(ttft * f for f in (1.0, 1.01, 0.99))),
    }
    return made.model_copy(update={"speed": made.speed.model_copy(update={"metrics": metrics})})


def test_a_loss_within_the_limit_is_accepted_and_the_runner_up_is_named():
    found = decided(
        record("bf16", n=4000),
        record("a", 1500, wrong=40, n=4000),
        record("b", 1200, n=4000),
        max_loss_points={"MMLU": 2, "GSM8K": 2},
    )
    assert (found.recommended, found.runner_up) == ("a", "b")
    assert "is no worse on 2 tasks (within 2 points)" in found.answer.text
    assert {claim.against for claim in found.answer.claims} == {"bf16", "limit"}
    assert any("A loses less than 2 points on MMLU: −1.0 points (90 %: −" in s.text for s in found.reasons)
    assert any(s.text.startswith("Runner-up: B; A serves 25.0 % more") for s in found.reasons)


def test_a_loss_beyond_the_limit_excludes():
    found = decided(
        record("bf16", n=4000),
        record("a", 1500, wrong=400, n=4000),
        record("b", 1200, n=4000),
        max_loss_points={"MMLU": 2},
    )
    assert found.recommended == "b"
    assert any("A loses more than 2 points on MMLU" in s.text for s in found.reasons)
    assert next(c for c in found.candidates if c.name == "a").standing == "excluded"


@pytest.mark.parametrize(
    ("fast", "text"),
    [
        (("fast",), "FAST serves more tokens per second than BF16 but loses accuracy on at least one task."),
        (
            ("fast", "faster"),
            "FASTER and FAST serve more tokens per second than BF16 but lose accuracy on at least one task.",
        ),
    ],
)
def test_what_is_faster_but_worse_is_not_recommended(fast, text):
    speeds = {"fast": 1500, "faster": 1600}
    found = decided(record("bf16"), *(record(name, speeds[name], wrong=30) for name in fast))
    assert found.recommended is None
    assert found.answer.text == f"No format is both faster and no worse here. {text}"


@pytest.mark.parametrize(("number", "names"), [(4, "A, B, C and D"), (5, "any of 5 variants")])
def test_more_than_four_variants_are_counted_and_not_named(number, names):
    found = decided(record("bf16"), *(record(name, 1001) for name in "abcde"[:number]))
    assert found.answer.text == f"No throughput gain over BF16 was shown on this machine for {names}."


def test_a_task_near_chance_is_not_asked_for_more_items():
    def near(name, speed):
        made = record(name, speed, wrong=300)
        tasks = {task: scores.model_copy(update={"chance": 0.25}) for task, scores in made.tasks.items()}
        return made.model_copy(update={"tasks": tasks})

    settle = [each for each in decided(near("bf16", 1000), near("a", 1500)).settle if each.column in TASKS]
    said = "cannot decide: BF16 itself scores 25.0 %, near the 25.0 % of guessing."
    assert [(each.kind, each.needed, each.text) for each in settle] == [
        ("items", None, f"A: {task} {said}") for task in TASKS
    ]


def test_too_few_items_are_counted_out():
    found = decided(record("bf16", n=200), record("a", 1500, wrong=1, n=200), max_loss_points={"MMLU": 1})
    assert found.recommended == "bf16" and "Open: A." in found.answer.text
    (items,) = [m for m in found.settle if m.column == "MMLU"]
    assert items.kind == "items" and items.needed > 200
    assert re.fullmatch(r"A: some [\d,]+ items of MMLU \(.*\) are needed to decide; 200 were answered\.", items.text)


def test_the_items_that_are_needed_are_of_the_size_that_the_margin_asks_for():
    """A normal interval of 1 in 200 lost ends at the limit with (z sd / distance)^2 items; better ones need more."""
    records = record("bf16", n=200), record("a", 1500, wrong=1, n=200)
    needed = {}
    for limit in (1, 2):
        found = decided(*records, max_loss_points={"MMLU": limit, "GSM8K": limit})
        (needed[limit],) = [m.needed for m in found.settle if m.column == "MMLU"]
        by_hand = (1.96 * math.sqrt(0.005) / (limit / 100 - 0.005)) ** 2
        assert by_hand / 2 < needed[limit] < 10 * by_hand
    assert needed[2] < needed[1]


def test_only_what_is_open_is_asked_for():
    records = record("bf16", n=200), record("a", 1500, wrong=1, n=200)
    found = decided(*records, max_loss_points={"MMLU": 1, "GSM8K": 30})
    assert {m.column for m in found.settle if m.variant == "a"} == {"MMLU"}


def test_memory_and_hardware_exclude_with_their_figures():
    needs = {
        "bf16": Requirements(memory_gib=30.0, memory_of="weights"),
        "a": Requirements(memory_gib=12.0, memory_of="weights"),
        "b": Requirements(memory_gib=12.0, memory_of="weights", unserved="it has no kernel."),
    }
    found = decided(record("bf16"), record("a", 900), record("b", 1500), needs=needs, memory_gib=24, hardware="L4")
    assert found.recommended == "a"
    assert found.answer.text.startswith("A meets the constraints, which BF16 does not, at 900 tok/s")
    texts = [s.text for s in found.reasons]
    assert "BF16 needs 30.0 GiB (weights), more than 24 GiB." in texts
    assert "B is not served on L4: it has no kernel." in texts


def test_where_bf16_is_excluded_what_is_surely_slower_is_not_the_surer():
    needs = {
        name: Requirements(memory_gib=30.0 if name == "bf16" else 12.0, memory_of="weights")
        for name in ("bf16", "a", "b")
    }
    found = decided(record("bf16"), record("a", 1001), record("b", 700), needs=needs, memory_gib=24)
    assert found.recommended == "a"


def test_what_is_not_known_is_open():
    found = decided(record("bf16"), record("a", 1500), memory_gib=24)
    assert found.recommended is None and {c.standing for c in found.candidates} == {"open"}
    assert found.answer.text == "No variant is known to meet the constraints. Open: A."


@pytest.mark.parametrize(("limit", "recommended"), [(500, "a"), (300, "bf16"), (402, "bf16")])
def test_p99_is_held_against_its_interval(limit, recommended):
    records = with_p99(record("bf16"), 100), with_p99(record("a", 1500), 400)
    found = decided(*records, ttft_p99_ms=limit)
    assert found.recommended == recommended
    status = {c.name: c.checks[0].status for c in found.candidates}["a"]
    assert status == {500: "met", 300: "broken", 402: "open"}[limit]


def test_a_p99_whose_interval_reaches_the_limit_by_half_a_millisecond_is_open():
    records = with_p99(record("bf16"), 100), with_p99(record("a", 1500), 400)
    (row,) = [row for row in compare(records, TASKS).rows if row.name == "a"]
    around = row.details["p99_ttft_ms"].measured.interval
    for limit, status in ((around.high - 0.5, "open"), (around.high + 0.5, "met"), (around.low + 0.5, "open")):
        (a,) = [c for c in decided(*records, ttft_p99_ms=limit).candidates if c.name == "a"]
        assert a.checks[0].status == status


def test_equals_are_told_apart_by_more_repeats():
    found = decided(record("bf16"), record("a", 1540), record("b", 1500))
    assert (found.recommended, found.runner_up) == ("a", "b")
    (repeats,) = [m for m in found.settle if m.kind == "repeats"]
    assert repeats.needed and repeats.needed > 3 and f"about {repeats.needed} repeats (" in repeats.text
    assert "if it differs as measured" in repeats.text
    assert any("cannot be told from that of A" in s.text for s in found.reasons)


def test_no_number_of_repeats_is_named_where_there_may_be_no_difference():
    found = decided(record("bf16"), record("a", 1510), record("b", 1500))
    (repeats,) = [m for m in found.settle if m.kind == "repeats"]
    assert repeats.needed is None and repeats.text.endswith("if they differ at all.")


def test_what_is_not_served_here_is_not_asked_for_more_measurements():
    gone = record("a", speed=Missing(reason="no kernel"), tasks=Missing(reason="no kernel"))
    half = record("b", 1500, tasks=Missing(reason="it was not asked"))
    assert {m.variant for m in decided(record("bf16"), gone, half).settle} == {"b"}


def test_the_answer_names_what_is_not_ruled_out_and_what_cannot_be_told():
    """None of 400 items lost leaves 0.9 points: (d - 1/800) / sqrt(d (1 - d) / 400) = 1.645."""
    found = decided(record("bf16"), record("a", 1540), record("b", 1500), record("c", 1200), record("d", 1600, wrong=2))
    assert found.recommended == "a"
    assert found.answer.text.partition("and is ")[2] == (
        "no worse on 2 tasks (within 1 point). A loss of more than 0.9 points is ruled out (MMLU). "
        "Its throughput cannot be told from that of B. Better in throughput, but not known to be admissible: D."
    )


def test_losses_of_what_could_not_take_its_place_are_no_reasons():
    """A variant that is slower, or was not timed, could not be deployed instead, whatever it loses."""
    records = record("bf16"), record("a", 1500), record("lossy", 1200, wrong=40), record("fp8", 9000, 40, ("fp8",))
    found = decided(*records, max_loss_points={"MMLU": 2, "GSM8K": 2})
    texts = [sentence.text for sentence in found.reasons]
    assert found.recommended == "a" and len(texts) == 3
    assert [text.partition(" on ")[0] for text in texts[:2]] == ["A loses less than 2 points"] * 2
    assert texts[2].startswith("Runner-up: ")
    faster = decided(*records[:2], record("lossy", 1800, wrong=40), max_loss_points={"MMLU": 2, "GSM8K": 2})
    assert [s.text.partition(" on ")[0] for s in faster.reasons][-2:] == ["LOSSY loses more than 2 points"] * 2
    # Nor are items asked of what is slower.
    for speed, asked in ((1200, set()), (1800, {"few"})):
        found = decided(record("bf16"), record("a", 1500), record("few", speed, wrong=2))
        assert {each.variant for each in found.settle if each.kind == "items"} == asked


def marked(comparison: Comparison, *names: str) -> Comparison:
    rows = tuple(r.model_copy(update={"marks": (GUARD,) if r.name in names else ()}) for r in comparison.rows)
    return comparison.model_copy(update={"rows": rows})


@pytest.mark.parametrize("names", [("a",), ("bf16",)])
def test_what_was_measured_while_a_guard_failed_is_measured_again(names: tuple[str, ...]) -> None:
    """Another process on the GPU, and the answer named the winner."""
    records = [record("bf16"), record("a", 1500), record("b", 1200)]
    table = marked(compare(records, TASKS), *names)
    found = recommend(table)
    assert found.recommended == ("b" if names == ("a",) else None)
    if names == ("bf16",):
        assert found.answer.text.startswith("No speed verdict: a guard failed while BF16 was measured. Measure again.")
        assert "No worse than BF16 on every task (within 1 point): A and B." in found.answer.text
    again = [m for m in found.settle if m.kind == "benchmark" and m.variant == "a"]
    assert bool(again) == (names == ("a",))
    assert all("must be measured again (other processes" in m.text for m in again)
    throughput = frontiers(records, table, 1.0)[0]
    assert set(throughput.absent) == set(names)
    assert recommend(table, objective="size").recommended is None


def test_a_guard_that_failed_for_several_is_told_once() -> None:
    records = [record("bf16"), record("a", 1500), record("b", 1200), record("c", 1100)]
    found = recommend(marked(compare(records, TASKS), "a", "b"))
    asked = [line for line in found.open_points if "measured again" in line]
    assert asked == ["A and B: their speed must be measured again (other processes)."]
    table = marked(compare(records, TASKS), "a", "b")
    hot = tuple(
        r.model_copy(update={"marks": (*r.marks, "GPU clock: block 1: 1.2 GHz", "GPU clock: block 2: 1.1 GHz")})
        if r.name == "b"
        else r
        for r in table.rows
    )
    lines = recommend(table.model_copy(update={"rows": hot})).open_points
    assert "A and B: their speed must be measured again (other processes; GPU clock for B)." in lines


def test_the_speed_of_an_emulated_format_asks_for_another_machine() -> None:
    """Another run would not tell it, though another variant was not measured at all."""
    gone = record("b", speed=Missing(reason="bench has not run"))
    table = compare([record("bf16"), record("a", emulated=("fp8",)), gone], TASKS)
    answer = recommend(table).answer.text
    assert answer.startswith("No speed verdict: the other formats are emulated on this machine.")
    settle = [each.text for each in recommend(table, Constraints(ttft_p99_ms=100)).settle if each.variant == "a"]
    assert settle == ["A: a machine that serves it natively would settle its p99 TTFT."]


def ladder(made: Record, alone: float, many: float) -> Record:
    """Give the record two loads: one request at a time, and 16 in flight, which the tables show."""

    def load(slots: int, tpot: float) -> LoadResult:
        metrics = {
            **made.speed.metrics,
            "mean_tpot_ms": Metric(unit="ms", values=(tpot, 1.01 * tpot, 0.99 * tpot)),
            "p99_ttft_ms": Metric(unit="ms", values=(10 * tpot, 10.1 * tpot, 9.9 * tpot)),
        }
        return LoadResult(
            name=f"concurrency {slots}",
            num_prompts=120,
            request_rate="inf",
            max_concurrency=slots,
            asked=360,
            completed=360,
            failed=0,
            metrics=metrics,
        )

    loads = (load(1, alone), load(16, many))
    changed = {"loads": loads, "headline": "concurrency 16", "metrics": loads[1].metrics, "protocol": "ladder"}
    speed = made.speed.model_copy(update=changed)
    return made.model_copy(update={"speed": speed, "protocols": {"ladder": speed}})


def test_the_objective_decides_and_is_named() -> None:
    records = [
        ladder(record("bf16", size=100), 10, 40),
        ladder(record("fast", 1500, size=60), 9, 30),
        ladder(record("quick", 1100, size=50), 5, 38),
        ladder(record("small", 900, size=25), 11, 44),
    ]
    table = compare(records, TASKS)
    chosen = {name: recommend(table, objective=name) for name in ("throughput", "tpot", "size")}
    assert {name: found.recommended for name, found in chosen.items()} == {
        "throughput": "fast",
        "tpot": "quick",
        "size": "small",
    }
    assert ", at 16 requests in flight, and is no worse" in chosen["throughput"].answer.text
    assert "QUICK takes 50.0 % less time per output token than BF16 (95 % interval" in chosen["tpot"].answer.text
    assert ", one request at a time, and is no worse" in chosen["tpot"].answer.text
    assert chosen["size"].answer.text.startswith("SMALL's checkpoint is 75 % smaller than BF16's, and is no worse")
    assert [chosen[name].objective for name in chosen] == list(chosen)


@pytest.mark.parametrize(("at", "recommended"), [(None, "bf16"), ("concurrency 16", "bf16"), ("concurrency 1", "a")])
def test_a_latency_is_judged_at_its_load(at: str | None, recommended: str) -> None:
    records = [ladder(record("bf16"), 10, 20), ladder(record("a", 1500), 10, 40)]
    found = recommend(compare(records, TASKS), Constraints(ttft_p99_ms=300, at=at))
    assert found.recommended == recommended
    (check,) = [c for c in found.candidates[1].checks if c.constraint == "ttft_p99_ms"]
    words = "one request at a time" if at == "concurrency 1" else "at 16 requests in flight"
    assert f"p99 TTFT {words} is" in check.statement.text
    missing = recommend(compare(records, TASKS), Constraints(ttft_p99_ms=300, at="rate 3"))
    assert "unknown (not measured under the load rate 3)" in missing.candidates[0].checks[0].statement.text


CONSTRAINTS = st.builds(
    Constraints,
    memory_gib=st.sampled_from([None, 10.0]),
    ttft_p99_ms=st.sampled_from([None, 1000.0]),
    max_loss_points=st.sampled_from([{}, {"MMLU": 5.0}, {"MMLU": 5.0, "GSM8K": 20.0}]),
    hardware=st.sampled_from([None, "L4"]),
)
NEEDS = st.dictionaries(
    st.sampled_from(["bf16", "a", "b", "c"]),
    st.builds(
        Requirements,
        memory_gib=st.sampled_from([5.0, 20.0, Missing(reason="not made")]),
        unserved=st.sampled_from(["", "no kernel", Missing(reason="unknown")]),
    ),
)
DIFFERENCE = re.compile(
    r"more tokens per second|less than [\d.]+ point|more than [\d.]+ point|loses accuracy| within [\d.]+ ms| above "
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything(), CONSTRAINTS, NEEDS)
def test_no_sentence_claims_a_difference_whose_interval_crosses_zero(records, constraints, needs):
    found = recommend(compare(records, TASKS), constraints, needs)
    candidates = {candidate.name: candidate for candidate in found.candidates}
    statements = [check.statement for c in found.candidates for check in c.checks]
    for sentence in (found.answer, *found.reasons, *statements):
        for claim in sentence.claims:
            assert not claim.interval.low <= 0 <= claim.interval.high
        if DIFFERENCE.search(sentence.text) and "GiB" not in sentence.text:
            assert sentence.claims, sentence
    for candidate in found.candidates:
        for check in candidate.checks:
            # Bytes and kernels are counted; everything else that is decided rests on an interval.
            sampled = check.constraint not in ("memory_gib", "hardware") and check.status != "open"
            limited = check.constraint.partition(".")[2] in constraints.max_loss_points or "p99" in check.constraint
            assert not (sampled and limited) or check.statement.claims
    if found.recommended:
        assert candidates[found.recommended].standing == "admissible"
        assert found.runner_up != found.recommended
    if found.runner_up:
        assert candidates[found.runner_up].standing != "excluded"
    if found.recommended == "bf16":
        assert not constraints.is_empty
