"""Engines of one format are held against each other within an algorithm, over what all of them quantized."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.engine_agreement import AGREEMENT, EngineWeights, agreement


def made(label: str, engine: str, algorithm: str, errors: dict[str, float], shown: str = "same") -> EngineWeights:
    return EngineWeights(label=label, engine=engine, algorithm=algorithm, scheme="W4A16", shown=shown, errors=errors)


def test_an_engine_is_held_against_the_best_of_its_algorithm() -> None:
    (table,) = agreement(
        [
            made("a", "llmcompressor", "gptq", {"x": 0.2, "y": 0.2}),
            made("b", "gptqmodel", "gptq", {"x": 0.1, "y": 0.26, "only here": 9.0}),
            made("c", "autoround", "signround", {"x": 0.1, "y": 0.1}),
        ]
    )
    rows = {row.label: row for row in table.rows}
    assert [row.label for row in table.rows] == ["b", "a", "c"]
    assert rows["b"].ratio == 1 and rows["b"].agrees
    assert rows["a"].ratio == pytest.approx(0.2 / 0.18)
    assert rows["a"].agrees is False
    assert (rows["c"].ratio, rows["c"].agrees) == (None, None)
    assert (rows["b"].worst, rows["b"].worst_module) == (0.26, "y")


def test_other_data_other_formats_and_lone_engines_are_not_compared() -> None:
    first = made("a", "llmcompressor", "gptq", {"x": 0.2})
    assert agreement([first, made("b", "gptqmodel", "gptq", {"x": 0.2}, shown="other")]) == ()
    assert agreement([first, made("b", "llmcompressor", "rtn", {"x": 0.2})]) == ()
    assert agreement([first, made("b", "gptqmodel", "gptq", {})]) == ()


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
def test_the_best_is_at_one_and_agrees(means: list[float]) -> None:
    (table,) = agreement([made(str(i), f"engine {i}", "awq", {"x": mean}) for i, mean in enumerate(means)])
    assert table.rows[0].ratio == 1
    assert all(row.agrees == (row.ratio <= AGREEMENT) for row in table.rows)
