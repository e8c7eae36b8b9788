"""What tables and sentences of the report say of differences, on everything that hypothesis comes up with."""

from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.comparison import SpeedCell, TaskCell
from pipeline.compare.decide.constraints import Constraints
from pipeline.compare.decide.measurements import more_repeats
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.statements import listing
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.repeats import Change
from pipeline.results.metrics import THROUGHPUT
from pipeline.stages.report.sections.accuracy import task_table
from pipeline.stages.report.sections.frontier import quality_table
from pipeline.stages.report.sections.latency import latency_table
from pipeline.stages.report.sections.results import Results


def interval_of(row, column):
    """The difference from BF16 that a cell of the study's table shows; None where there is none."""
    cell = row.speed.get(column.name) or row.tasks.get(column.name)
    change = cell.change if isinstance(cell, SpeedCell | TaskCell) else None
    return change.interval if isinstance(change, Change | PairedDifference) else None


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything())
def test_a_word_stands_where_a_difference_is_shown(records):
    comparison = compare(records, TASKS)
    table = Results.of(comparison)
    for row, shown in zip(comparison.rows, table.rows, strict=True):
        for column, cell in zip(table.columns, shown.cells, strict=True):
            around = interval_of(row, column)
            crosses = around is None or around.low <= 0 <= around.high
            if cell.missing or row.is_baseline or not cell.change:
                continue
            if column.kind == "speed":
                assert (cell.word in ("better", "worse")) == (not crosses)
            if column.kind == "task":
                # A loss by the verdict that the cell names; a gain after correction for the table.
                verdict = getattr(row.tasks[column.name], "loss", None)
                lost, raised = "worse (by more than" in cell.evidence, cell.change.startswith("+")
                assert (cell.word == "worse") == lost
                assert (cell.word == "better") == (not crosses and raised and verdict.p_holm <= 0.05)
            assert cell.word or column.kind == "size"
    for figures in (task_table(comparison), quality_table(comparison), latency_table(comparison)):
        assert all(len(line) == len(figures.head) for line in figures.rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything())
def test_what_is_open_is_said_of_every_variant_once(records):
    found = recommend(compare(records, TASKS), Constraints(), {})
    said, labels = found.open_points, {each.name: each.label for each in found.candidates}
    assert len(set(said)) == len(said) <= len(found.settle)
    for each in found.settle:
        alike = [text for text in said if labels[each.variant] in text]
        if each.text not in said:
            assert any(each.column in text or text.endswith(more_repeats(THROUGHPUT.name)) for text in alike)
        assert alike


def test_many_variants_of_one_open_question_are_one_line():
    single = [record(name, 900 + 100 * i, noise=(1.0,)) for i, name in enumerate("abcdef")]
    found = recommend(compare([record("bf16", noise=(1.0,)), *single], TASKS), Constraints(), {})
    assert len(found.settle) == 6
    assert found.open_points == [f"A, B, C, D, E and F, each with BF16: {more_repeats(THROUGHPUT.name)}"]
    assert "any of 6 variants" in found.answer.text


def test_tasks_that_nobody_was_scored_on_are_one_line():
    faster = [record(name, 1300, tasks={}) for name in "ab"]
    found = recommend(compare([record("bf16", tasks={}), *faster], TASKS), Constraints(), {})
    assert len(found.settle) == 2 * len(TASKS) > 2
    assert found.open_points == [f"A and B: {listing(TASKS)} must be scored on the same items as BF16."]


def test_the_table_says_what_its_intervals_hold_and_what_the_run_could_have_shown():
    lines = Results.of(compare([record("bf16"), record("a", 1100), record("b", 1001)], TASKS)).legend
    assert "The intervals of a speed's differences from BF16 hold for all variants together (Dunnett)." in lines
    assert any(line.startswith("One start of each server, widened by 2 %") for line in lines)
    assert any("could have shown" in line and "80 % power: Throughput " in line for line in lines)
    single = Results.of(compare([record("bf16", noise=(1.0,)), record("a", 1100, noise=(1.0,))], TASKS)).legend
    assert not any("could have shown" in line or "Dunnett" in line for line in single)
