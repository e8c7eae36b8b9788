"""Answers where something is open: too few items, tasks near chance, answers that run on, failed guards; objectives."""

from __future__ import annotations

import numpy as np
import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare, judge
from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.constraints import Constraints
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.recommendation import recommend
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.records import Logprobs, Record
from pipeline.stages.report.sections.summary import worst_cell

GUARD = "other processes: another process was on the GPU"


def scored(made: Record, correct: int, n: int, wrong: int = 0, **more: object) -> Record:
    """Give the record's tasks so many correct items, of which the first `wrong` are lost."""
    items = tuple((f"item {i}", float(wrong <= i < correct)) for i in range(n))
    value = (correct - wrong) / n
    tasks = {
        task: each.model_copy(update={"scores": items, "value": value, "n": n, "asked": n, **more})
        for task, each in made.tasks.items()
    }
    return made.model_copy(update={"tasks": tasks})


def marked(comparison: Comparison, *names: str) -> Comparison:
    rows = tuple(r.model_copy(update={"marks": (GUARD,) if r.name in names else ()}) for r in comparison.rows)
    return comparison.model_copy(update={"rows": rows})


def test_the_fastest_is_open_where_items_are_few() -> None:
    found = recommend(compare([record("bf16", n=200), record("a", 1500, n=200), record("b", 1300, n=200)], TASKS))
    assert found.recommended is None
    text = found.answer.text
    assert text.startswith("Fastest, accuracy open: A serves 50.0 % more tokens per second than BF16 (95 % interval")
    assert "; needs some 570 items of MMLU (410 to 7,200) and some 570 items of GSM8K (410 to 7,200)." in text
    assert text.endswith("Open as well: B.")


def test_a_set_that_is_too_small_is_not_asked_for_more_items() -> None:
    def small(name: str, speed: float) -> Record:
        made = record(name, speed, n=164)
        return made.model_copy(
            update={"tasks": {t: each.model_copy(update={"available": 164}) for t, each in made.tasks.items()}}
        )

    table = compare([small("bf16", 1000), small("a", 1500)], TASKS, 0.01)
    found = recommend(table)
    assert "needs more than the 164 items of MMLU that exist" in found.answer.text
    assert all(each.needed is None for each in found.settle)
    texts = [point.text for point in judge(table, "tiny", "a machine", found).points]
    assert any("MMLU: no set of 164 items can rule out a loss of 1 point; a loss below 2.2 points" in t for t in texts)
    wide = compare([small("bf16", 1000), small("a", 1500)], TASKS)
    texts = [point.text for point in judge(wide, "tiny", "a machine").points]
    assert any(t.startswith("MMLU has 164 items, which can rarely rule out a loss below 8.5 points") for t in texts)


def test_near_chance_nothing_is_harmless() -> None:
    """W4A16 by rounding, with 0.374 nats per token, was told to have no loss beyond noise."""
    gone = Missing(reason="bench has not run")
    bf16 = scored(record("bf16", speed=gone), 250, 1000, chance=0.25)
    w4a16 = scored(record("w4a16", speed=gone, size=40), 251, 1000, chance=0.25)
    logits = np.random.default_rng(0).normal(size=(240, 12))
    noisy = logits + 0.8 * np.random.default_rng(1).normal(size=logits.shape)
    records = [
        bf16.model_copy(update={"divergence": logprobs(logits)}),
        w4a16.model_copy(update={"divergence": logprobs(noisy), "scheme": "W4A16"}),
    ]
    table = compare(records, TASKS)
    assert {cell.loss.kind for cell in table.rows[1].tasks.values()} == {"cannot tell"}
    text = recommend(table).answer.text
    assert "MMLU and GSM8K cannot tell whether accuracy is kept: BF16 itself is near chance there." in text
    assert "KL from BF16 in 10⁻³ nats per token: W4A16 " in text
    assert "(known for this format: 71.9 (Llama 3 8B, llama.cpp's Q4_0), 367 (SmolLM2-135M, docs/results))" in text
    assert "No worse" not in text and "Smallest" not in text and "noise" not in text
    size = frontiers(records, table, 1.0)[-1]
    assert {place.standing for place in size.places} <= {"cannot tell", "on"}


def logprobs(logits: np.ndarray) -> Logprobs:
    rows, k = len(logits), 6
    values = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    ids = np.argsort(-values, axis=1)[:, :k].astype(np.int32)
    return Logprobs(
        sequence=np.repeat(np.arange(rows // 20, dtype=np.int32), 20),
        position=np.tile(np.arange(20, dtype=np.int32), rows // 20),
        token=np.zeros(rows, np.int32),
        logprob=values[:, 0],
        top_ids=ids,
        top_logprobs=np.take_along_axis(values, ids, axis=1),
    )


def test_answers_that_run_on_leave_a_variant_open() -> None:
    def cut(made: Record, number: int) -> Record:
        items = tuple((f"item {i}", float(i < number)) for i in range(400))
        tasks = {
            task: each.model_copy(update={"cut": items, "unfinished": number} if task == "GSM8K" else {})
            for task, each in made.tasks.items()
        }
        return made.model_copy(update={"tasks": tasks})

    table = compare([cut(record("bf16"), 2), cut(record("a", 1500), 60), record("b", 1200)], TASKS)
    found = recommend(table)
    assert found.recommended == "b"
    assert "Better in throughput, but not known to be admissible: A." in found.answer.text
    said = "A runs on: 60 of 400 answers of GSM8K reached the token limit, with BF16 2 "
    texts = [point.text for point in judge(table, "tiny", "a machine", found).points]
    assert any(text.startswith(said) and text.endswith(", McNemar).") for text in texts)
    shown = worst_cell(table.rows[1])
    assert (shown.value, shown.around, shown.word) == ("+14.5 cut", "GSM8K (0.5 → 15.0 %)", "worse")
    assert "cut" not in worst_cell(table.rows[2]).value


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


def test_an_emulated_variant_is_not_asked_to_be_measured_again() -> None:
    """Another machine is needed for its speed, not another run."""
    records = [record("bf16"), record("a", 1500, emulated=("a",)), record("b", 1200)]
    table = marked(compare(records, TASKS), "a")
    for found in (recommend(table), recommend(table, Constraints(ttft_p99_ms=100))):
        assert not [each for each in found.settle if each.guards]
        assert not any("measured again" in check.statement.text for c in found.candidates for check in c.checks)
    texts = [point.text for point in judge(table, "tiny", "a machine").points]
    assert not any("guard failed" in text for text in texts)


def test_a_marked_figure_is_not_the_best() -> None:
    disturbed = record("a", 1500)
    guards = ({"name": "other processes", "passed": False, "text": "another process was on the GPU"},)
    speed = disturbed.speed.model_validate({**disturbed.speed.model_dump(), "guards": guards})
    table = compare([record("bf16"), disturbed.model_copy(update={"speed": speed}), record("b", 1200)], TASKS)
    assert table.best["total_token_throughput"] == ("b",)


def test_nothing_is_best_where_nothing_differs() -> None:
    table = compare([record("bf16"), record("a", 1001, wrong=1)], TASKS)
    assert "total_token_throughput" not in table.best and "MMLU" not in table.best
    lost = compare([record("bf16"), record("a", 1500, wrong=40)], TASKS)
    # BF16 is what the others are held against: it is never the best.
    assert "MMLU" not in lost.best and lost.best["total_token_throughput"] == ("a",)


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


def test_no_worse_is_said_to_hold_for_each_variant_by_itself() -> None:
    table = compare([record("bf16"), *(record(f"v{i}", 1100) for i in range(7))], TASKS)
    texts = [point.text for point in judge(table, "tiny", "a machine").points]
    assert any("of 7 that lose just their margin, 0.35 would be called no worse by chance" in text for text in texts)


def test_emulated_formats_are_not_to_be_measured_again() -> None:
    """A guard that failed changes nothing where no format claims a speed, though another was not measured at all."""
    gone = Missing(reason="bench has not run")
    emulated = record("a", 1500, emulated=("fp8",))
    failed = Guard(name="other processes", passed=False, text="they took half of the CPU")
    marked = emulated.model_copy(update={"speed": emulated.speed.model_copy(update={"guards": (failed,)})})
    found = recommend(compare([record("bf16"), marked, record("b", speed=gone)], TASKS))
    assert found.answer.text.startswith("No speed verdict: the other formats are emulated on this machine.")
