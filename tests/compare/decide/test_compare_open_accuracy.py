"""Open questions about accuracy: too few items, tasks near chance, answers that run on."""

from __future__ import annotations

import numpy as np
from support.compare_records import TASKS, record

from pipeline.compare import compare, judge
from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.constraints import Constraints, examine
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.open_accuracy import accuracy_summary, divergences, needs
from pipeline.compare.decide.recommendation import recommend
from pipeline.results.base import Missing
from pipeline.results.records import Logprobs, Record
from pipeline.stages.report.sections.summary import worst_cell


def scored(made: Record, correct: int, n: int, wrong: int = 0, **more: object) -> Record:
    """Give the record's tasks so many correct items, of which the first `wrong` are lost."""
    items = tuple((f"item {i}", float(wrong <= i < correct)) for i in range(n))
    value = (correct - wrong) / n
    tasks = {
        task: each.model_copy(update={"scores": items, "value": value, "n": n, "asked": n, **more})
        for task, each in made.tasks.items()
    }
    return made.model_copy(update={"tasks": tasks})


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
    # A wider margin that was asked for can be shown, and is no caveat.
    asked = compare([small("bf16", 1000), small("a", 1500)], TASKS, 0.1)
    assert not any("164" in point.text for point in judge(asked, "tiny", "a machine").points)


def open_of(table: Comparison, **limits: float) -> list[str]:
    """Return what would decide the accuracy of each variant."""
    constraints = Constraints(max_loss_points=limits)
    return [needs(row, examine(row, constraints, None), constraints) for row in table.rows if not row.is_baseline]


def test_what_would_decide_is_said_for_each_reason() -> None:
    few = compare([record("bf16", n=200), record("a", n=200)], TASKS)
    items = "needs some 570 items of MMLU (410 to 7,000) and some 570 items of GSM8K (410 to 7,000)"
    assert open_of(few) == [items]
    # At a limit of a task's own, the items of the other.
    assert open_of(few, MMLU=5, GSM8K=1) == ["needs some 570 items of GSM8K (410 to 7,000)"]
    other = compare([record("bf16"), record("a", n=401)], TASKS)
    assert open_of(other) == ["MMLU and GSM8K must be scored on the same items as BF16"]
    chance = compare([scored(record(name), 100, 400, chance=0.25) for name in ("bf16", "a")], TASKS)
    assert open_of(chance) == ["MMLU and GSM8K cannot tell, since BF16 itself is near chance there"]
    # One task loses less than the ten points that are accepted, and nothing says that the mean loses less than three.
    half = {"MMLU": record("a", wrong=25).tasks["MMLU"], "GSM8K": record("a").tasks["GSM8K"]}
    lossy = compare([record("bf16"), record("a", tasks=half)], TASKS)
    assert open_of(lossy, MMLU=10) == ["a mean loss of 3 points over all tasks is not ruled out"]
    # Ten points that are accepted on every task are accepted of their mean.
    assert open_of(lossy, MMLU=10, GSM8K=10) == [""]
    assert open_of(compare([record("bf16"), record("a")], TASKS)) == [""]


def test_the_divergence_is_told_of_those_whose_tasks_cannot_tell() -> None:
    logits = np.random.default_rng(0).normal(size=(240, 12))

    def noisy(made: Record, scale: float) -> Record:
        noise = scale * np.random.default_rng(1).normal(size=logits.shape)
        return made.model_copy(update={"divergence": logprobs(logits + noise)})

    records = [noisy(cut(record("bf16"), 2), 0), noisy(cut(record("a"), 60), 0.4), noisy(record("b"), 0.2)]
    rows = compare([*records, cut(record("c"), 60)], TASKS).rows
    text = divergences(rows)
    assert text.startswith(" KL from BF16 in 10⁻³ nats per token: A ") and text.endswith(
        " (known for this format: n/a)."
    )
    # B's tasks can tell, and the divergence of C was not measured.
    assert ";" not in text and divergences(rows[2:]) == ""


def test_without_speeds_the_accuracy_of_all_is_summed_up() -> None:
    table = compare([record("bf16"), record("a", wrong=40), record("b", wrong=1), record("c")], TASKS)
    candidates = {row.name: examine(row, Constraints(), None) for row in table.rows}
    text = accuracy_summary(table.rows[1:], candidates, Constraints())
    assert text.startswith(" Worse than BF16 on at least one task: A. Accuracy open: B (needs ")
    limited = Constraints(max_loss_points={"MMLU": 20.0, "GSM8K": 1.0})
    assert "Worse" not in accuracy_summary(table.rows[1:], candidates, limited)
    assert accuracy_summary(table.rows[3:], candidates, Constraints()) == ""


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


def cut(made: Record, number: int) -> Record:
    items = tuple((f"item {i}", float(i < number)) for i in range(400))
    tasks = {
        task: each.model_copy(update={"cut": items, "unfinished": number} if task == "GSM8K" else {})
        for task, each in made.tasks.items()
    }
    return made.model_copy(update={"tasks": tasks})


def test_answers_that_run_on_leave_a_variant_open() -> None:
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
