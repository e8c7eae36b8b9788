"""Lines for measurements that several variants share."""

from __future__ import annotations

from pipeline.compare.decide.measurements import Measurement, more_repeats, open_points
from pipeline.results.metrics import THROUGHPUT

LABELS = {"a": "A", "b": "B", "c": "C", "bf16": "BF16"}


def measurement(variant: str, kind: str, text: str = "", **more: object) -> Measurement:
    given = {"against": "bf16", "column": "MMLU", "needed": None, "text": text, **more}
    return Measurement(variant=variant, kind=kind, **given)


def points(*settle: Measurement) -> list[str]:
    return open_points(settle, LABELS)


def test_guards_that_failed_are_one_line_that_names_whom_each_failed_for() -> None:
    def marked(variant: str, *guards: str) -> Measurement:
        return measurement(variant, "benchmark", f"{variant} again.", guards=guards)

    assert points(marked("a", "warm-up"), marked("b", "warm-up")) == [
        "A and B: their speed must be measured again (warm-up)."
    ]
    assert points(marked("a", "warm-up", "queue"), marked("b", "warm-up"), marked("c", "clock", "warm-up")) == [
        "A, B and C: their speed must be measured again (warm-up; queue for A; clock for C)."
    ]
    assert points(marked("a", "queue"), marked("b", "clock"), marked("c", "clock")) == [
        "A, B and C: their speed must be measured again (queue for A; clock for B and C)."
    ]
    # One variant alone has its own sentence.
    assert points(marked("a", "warm-up")) == ["a again."]


def test_tasks_that_were_not_scored_are_one_line_for_the_variants_that_lack_the_same() -> None:
    lacking = [("a", "MMLU"), ("a", "GSM8K"), ("b", "MMLU"), ("b", "GSM8K"), ("c", "MMLU")]
    found = points(*(measurement(name, "evaluation", f"{name} {task}", column=task) for name, task in lacking))
    assert found == ["A and B: MMLU and GSM8K must be scored on the same items as BF16.", "c MMLU"]


def test_repeats_without_a_number_are_one_line_for_those_against_the_same() -> None:
    found = points(
        measurement("a", "repeats", "a more", column="speed"),
        measurement("b", "repeats", "b more", column="speed"),
        measurement("a", "repeats", "against b", column="speed", against="b"),
        measurement("c", "repeats", "c with 7", column="speed", needed=7),
        measurement("a", "repeats", "a with 7", column="speed", needed=7),
    )
    assert found == [f"A and B, each with BF16: {more_repeats(THROUGHPUT.name)}", "against b", "c with 7", "a with 7"]


def test_tasks_that_cannot_show_a_loss_are_a_line_each_for_all_variants() -> None:
    asked = [("a", "MMLU"), ("a", "GSM8K"), ("b", "MMLU"), ("b", "GSM8K")]
    found = points(
        *(measurement(name, "items", f"{name} {task}.", column=task, blind="at chance") for name, task in asked)
    )
    assert found == ["A and B: MMLU cannot decide: at chance.", "A and B: GSM8K cannot decide: at chance."]


def test_other_measurements_are_lines_of_their_own_and_each_is_said_once() -> None:
    found = points(
        measurement("a", "items", "100 items", needed=100),
        measurement("b", "items", "200 items", needed=200),
        measurement("a", "items", "100 items", needed=100),
        measurement("a", "benchmark", "a latency"),
    )
    assert found == ["100 items", "200 items", "a latency"]
    assert points() == []
