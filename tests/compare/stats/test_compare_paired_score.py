"""T. Tango's score test in closed form: at no difference, and with no item that differs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.compare.stats.paired_score import ends, null_variance, p_above, p_below


@pytest.mark.parametrize("at", [-1.0, -0.3, -0.01, 0.0, 0.01, 0.3, 1.0])
def test_without_an_item_that_differs_the_variance_is_that_of_a_share(at: float) -> None:
    assert null_variance(0.0, 0.0, at) == pytest.approx(abs(at) * (1 - abs(at)))


def test_at_no_difference_the_variance_is_the_share_that_differs() -> None:
    assert null_variance([0.03, 0.2], [0.01, 0.0], 0.0) == pytest.approx([0.04, 0.2])


@pytest.mark.parametrize(("gained", "lost"), [(14, 5), (5, 14), (3, 3), (1, 0)])
def test_at_no_difference_it_is_mcnemars_with_half_an_item_of_correction(gained: int, lost: int) -> None:
    root = math.sqrt(gained + lost)
    assert p_above(gained, lost, 200, 0.0) == pytest.approx(stats.norm.sf((gained - lost - 0.5) / root))
    assert p_below(gained, lost, 200, 0.0) == pytest.approx(stats.norm.sf((lost - gained - 0.5) / root))


def test_what_has_no_variance_is_certain() -> None:
    assert p_above(0, 0, 10, 0.0) == p_below(0, 0, 10, 0.0) == 1
    assert p_above(0, 0, 10, -1.0) == p_below(0, 0, 10, 1.0) == 0
    # All items lost: the difference is -1, and nothing smaller is possible.
    assert p_above(0, 10, 10, -1.0) == 1


@pytest.mark.parametrize(("n", "level"), [(100, 0.05), (1319, 0.05), (100, 0.025)])
def test_identical_answers_have_the_ends_of_a_quadratic(n: int, level: float) -> None:
    def distance(d: float) -> float:
        return (d - 0.5 / n) / math.sqrt(d * (1 - d) / n) - stats.norm.isf(level)

    end = optimize.brentq(distance, 0.5 / n, 0.9)
    assert ends(0, 0, n, level) == pytest.approx((-end, end), abs=1e-8)


@pytest.mark.parametrize(("gained", "lost"), [(7, 3), (0, 12), (40, 0), (20, 20)])
def test_the_ends_are_the_differences_that_the_tests_reject_at_just_the_level(gained: int, lost: int) -> None:
    low, high = ends(gained, lost, 60, 0.05)
    assert low < (gained - lost) / 60 < high
    assert p_above(gained, lost, 60, low) == pytest.approx(0.05, abs=1e-6)
    assert p_below(gained, lost, 60, high) == pytest.approx(0.05, abs=1e-6)
    assert ends(lost, gained, 60, 0.05) == pytest.approx((-high, -low), abs=1e-8)


def test_a_difference_has_the_ends_of_its_range() -> None:
    low, high = ends(0, 10, 10, 0.05)
    assert low == -1.0 and -1.0 < high < 0
    assert ends(10, 0, 10, 0.05) == pytest.approx((-high, 1.0))


def test_arrays_are_tested_element_by_element() -> None:
    found = p_above(np.array([5, 14]), np.array([14, 5]), 200, np.array([-0.01, 0.0]))
    assert found.tolist() == [float(p_above(5, 14, 200, -0.01)), float(p_above(14, 5, 200, 0.0))]
