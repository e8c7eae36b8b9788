"""One variant under several calibrations, each against BF16 on the same items."""

from __future__ import annotations

from support.compare_records import TASKS, record

from pipeline.compare.calibration_sweep import Choice, Sweep, sweep
from pipeline.compare.stats.accuracy import Mean, PairedDifference
from pipeline.results.base import Missing
from pipeline.results.records import Record


def choice(technique: str, samples: int, parameter: float | None = None) -> Choice:
    return Choice(technique=technique, parameter=parameter, samples=samples)


# Each with the items of 400 that it loses.
MADE = {
    choice("percentile", 8, 99.99): 8,
    choice("percentile", 8, 99.9): 9,
    choice("minmax", 64): 3,
    choice("minmax", 8): 20,
}


def swept(baseline: Record | None, current: Choice | None = None) -> Sweep:
    results = [(each, record("fp8_static", wrong=wrong)) for each, wrong in MADE.items()]
    return sweep("fp8_static", "FP8 static", results, baseline, TASKS, current)


def test_the_rows_are_in_the_order_of_technique_parameter_and_samples() -> None:
    found = swept(record("bf16"))
    assert (found.variant, found.label, found.tasks) == ("fp8_static", "FP8 static", TASKS)
    order = [choice("minmax", 8), choice("minmax", 64), choice("percentile", 8, 99.9), choice("percentile", 8, 99.99)]
    assert [row.choice for row in found.rows] == order


def test_each_row_has_the_figures_of_its_own_choice_against_bf16() -> None:
    for row in swept(record("bf16")).rows:
        lost = MADE[row.choice]
        for task in TASKS:
            change = row.tasks[task].change
            assert isinstance(change, PairedDifference) and (change.gained, change.lost) == (0, lost)
        assert isinstance(row.mean_accuracy, Mean) and isinstance(row.mean_change, Mean)
        assert (row.mean_accuracy.value, row.mean_change.value) == (1 - lost / 400, -lost / 400)


def test_without_bf16_each_row_has_its_accuracy_alone() -> None:
    rows = swept(None).rows
    assert len(rows) == len(MADE)
    for row in rows:
        assert isinstance(row.mean_accuracy, Mean) and row.mean_accuracy.value == 1 - MADE[row.choice] / 400
        assert row.tasks["MMLU"].change == Missing(reason="no BF16 baseline among the results")
        assert isinstance(row.mean_change, Missing)


def test_the_choice_of_the_rest_of_the_report_is_marked() -> None:
    marked = [row.choice for row in swept(record("bf16"), choice("minmax", 64)).rows if row.is_current]
    assert marked == [choice("minmax", 64)]
    assert not any(row.is_current for row in swept(record("bf16")).rows)
