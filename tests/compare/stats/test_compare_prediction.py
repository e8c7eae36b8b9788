"""Prediction intervals of one more run: coverage, closed forms, and values without an interval."""

import math

import numpy as np
import pytest
from scipy.stats import t

from pipeline.compare.stats.prediction import one_more_change, one_more_run
from pipeline.compare.stats.repeats import summarize


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_further_run_of_the_same_system_lies_in_it_nineteen_times_of_twenty(repeats: int) -> None:
    """An interval of the mean holds it in 84 (3 repeats) or 68 % (5), fewer the more one measures."""
    draws = np.exp(np.random.default_rng(repeats).normal(9, 0.06, (2000, repeats + 1)))
    held = in_the_mean = 0
    for *values, published in draws.tolist():
        held += one_more_run(values).contains(published)
        in_the_mean += summarize("tok/s", values).interval.contains(published)
    assert held / len(draws) == pytest.approx(0.95, abs=0.015)
    assert in_the_mean / len(draws) == pytest.approx({3: 0.84, 5: 0.68}[repeats], abs=0.05)


def test_a_further_pair_changes_as_much_nineteen_times_of_twenty() -> None:
    draws = np.exp(np.random.default_rng(1).normal(9, 0.06, (2000, 2, 6)))
    held = 0
    for (*values, ours), (*baseline, theirs) in draws.tolist():
        held += one_more_change(values, baseline).contains(100 * (ours / theirs - 1))
    assert held / len(draws) == pytest.approx(0.95, abs=0.015)


def test_closed_forms() -> None:
    logs = [0.0, 0.1, 0.2]
    found = one_more_run([math.exp(value) for value in logs])
    half = t.ppf(0.975, 2) * 0.1 * math.sqrt(1 + 1 / 3)
    assert math.log(found.low) == pytest.approx(0.1 - half) and math.log(found.high) == pytest.approx(0.1 + half)
    both = one_more_change([math.exp(value) for value in logs], [math.exp(value) for value in logs])
    # Equal variances: twice the variance and twice the degrees of freedom.
    half = t.ppf(0.975, 4) * 0.1 * math.sqrt(2 * (1 + 1 / 3))
    assert math.log1p(both.high / 100) == pytest.approx(half) and math.log1p(both.low / 100) == pytest.approx(-half)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [1.0, 0.0], [1.0, -1.0]])
def test_repeats_that_say_nothing_of_noise_have_none(values: list[float]) -> None:
    assert one_more_run(values) is None
    assert one_more_change(values, [1.0, 2.0]) is None and one_more_change([1.0, 2.0], values) is None
