"""One word for what is known of a difference, and one table that defines the words."""

from typing import get_args

import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.words import MEANINGS, SYMBOLS, Word, is_reliable, legend, quality_words, speed_word, task_word
from pipeline.results.base import Missing
from pipeline.results.bench import Guard


def test_every_word_has_a_meaning_and_a_symbol_of_its_own():
    assert set(MEANINGS) == set(SYMBOLS) == set(get_args(Word))
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)
    assert legend(["worse", "", "better"]).startswith("▲ better: ") and "; ▼ worse: " in legend(["worse", "better"])
    assert legend([""]) == ""


@pytest.mark.parametrize(
    ("figure", "noise", "word"),
    [
        (1300, (1.0, 1.01, 0.99), "better"),
        (700, (1.0, 1.01, 0.99), "worse"),
        (1003, (1.0, 1.01, 0.99), "cannot tell"),
        (1300, (1.0,), "cannot tell"),
    ],
)
def test_the_word_for_a_speed(figure, noise, word):
    comparison = compare([record("bf16", noise=noise), record("a", figure, noise=noise)], TASKS)
    for metric in comparison.metrics:
        cell = comparison.rows[1].speed[metric.name]
        assert speed_word(cell, metric.better, is_reliable=True) == word
        assert speed_word(cell, metric.better, is_reliable=False) == "unreliable"
    assert speed_word(Missing(reason="gone"), "higher", is_reliable=True) == "not measured"


def test_a_guard_that_failed_for_bf16_makes_all_speeds_unreliable():
    guard = Guard(name="warm-up", passed=False, text="not steady")
    speed = record("bf16").speed.model_copy(update={"guards": (guard,)})
    comparison = compare([record("bf16", speed=speed), record("a", 1300)], TASKS)
    assert [is_reliable(comparison, row) for row in comparison.rows] == [False, False]
    assert not comparison.best.keys() & {metric.name for metric in comparison.metrics}


def test_best_is_only_what_is_shown_to_be_better_than_bf16():
    rows = [record("bf16", 1000, size=100), record("a", 1004, size=100), record("b", 800, wrong=60, size=100)]
    comparison = compare(rows, TASKS)
    # B is clearly slower and worse, so every column has a clear difference; A's lead over BF16 is none.
    assert comparison.best == {}
    better = compare([*rows, record("c", 1300, size=50)], TASKS)
    assert better.best["total_token_throughput"] == better.best["size"] == ("c",)


def test_words_of_tasks_are_counted():
    comparison = compare([record("bf16"), record("a"), record("b", wrong=30), record("c", tasks={})], TASKS)
    assert [task_word(cell) for cell in comparison.rows[1].tasks.values()] == ["no worse"] * 2
    assert quality_words(comparison) == {"no worse": 2, "worse": 2, "not measured": 2}
