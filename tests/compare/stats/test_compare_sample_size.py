"""The items that a verdict takes: closed forms, rounding, and the words for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.compare.stats.paired_score import p_above
from pipeline.compare.stats.sample_size import (
    MOST,
    STEP,
    ItemsNeeded,
    decided,
    items_needed,
    items_needed_graded,
    least_margin,
    never_shown,
)

Z = {level: float(stats.norm.isf(level)) for level in (0.05, 0.025, 0.005, 0.2)}


def solved(distance: float, side: float, correction: float) -> float:
    """Solve a sqrt(n) - correction / sqrt(n) = side."""
    root = optimize.brentq(lambda root: distance * root - correction / root - side, 1e-3, 1e5)
    return float(root) ** 2


def test_equals_are_found_no_worse_after_so_many_items() -> None:
    """Equal shares p = q: s1^2 = 2 p, and the variance at the margin is 2 q' - m - m^2, q' the root of Tango's."""
    p, margin = 0.02, 0.01
    q = (2 * p + 2 * margin + math.sqrt((2 * p + 2 * margin) ** 2 - 8 * p * margin * (1 + margin))) / 4
    side = Z[0.05] * math.sqrt(2 * q - margin - margin**2) + Z[0.2] * math.sqrt(2 * p)
    assert decided(np.array(p), np.array(p), margin, 1) == pytest.approx(solved(margin, side, 0.5))
    # Other comparisons correct *worse*, not *no worse*.
    assert decided(np.array(p), np.array(p), margin, 28) == decided(np.array(p), np.array(p), margin, 1)


def test_a_loss_is_found_after_as_many_items_as_the_stricter_of_two_tests_takes() -> None:
    """Near the margin that of the margin, with a margin of zero McNemar's, two-sided and with an item of correction."""
    lost = np.array(0.05)
    differs = solved(0.05, Z[0.025] * math.sqrt(0.05) + Z[0.2] * math.sqrt(0.05 - 0.05**2), 1.0)
    assert decided(np.zeros(()), lost, 0.0, 1) == pytest.approx(differs)
    q = (0.05 + 0.04 * 2.05 + math.sqrt((0.05 + 0.04 * 2.05) ** 2 - 8 * 0.05 * 0.04 * 1.04)) / 4
    side = Z[0.05] * math.sqrt(2 * q - 0.04 - 0.04**2) + Z[0.2] * math.sqrt(0.05 - 0.05**2)
    beyond = solved(0.01, side, 0.5)
    assert decided(np.zeros(()), lost, 0.04, 1) == pytest.approx(beyond) and beyond > differs
    assert decided(np.zeros(()), lost, 0.04, 10) > beyond


def test_a_loss_of_just_the_margin_is_never_decided() -> None:
    assert decided(np.array(0.02), np.array(0.03125), 0.01125, 1) == math.inf


@pytest.mark.parametrize(
    ("difference", "comparisons", "likely"),
    [
        # ((z + y) sd / distance)^2: 6.18 * 0.01 / 0.01^2 is 618.
        (0.0, 1, 620),
        (0.0, 10, 620),
        # What is better than equal is taken for equal.
        (0.02, 1, 620),
        # (1.645 + 0.842)^2 0.01 / 0.02^2 is 155, and with a tenth of the level 292.
        (-0.03, 1, 160),
        (-0.03, 10, 300),
    ],
)
def test_graded_scores_take_as_many_items_as_the_normal_test(difference: float, comparisons: int, likely: int) -> None:
    found = items_needed_graded(difference, 0.01, 100, 0.01, comparisons=comparisons)
    assert found.likely == likely and found.low is not None and found.low <= likely
    assert found.high is None or found.high >= likely


def test_the_range_of_graded_scores_is_that_of_the_mean() -> None:
    """The 5th percentile of the mean, 1.64 standard errors below zero, leaves a third of the margin: 8.5 times more."""
    found = items_needed_graded(0.0, 1.0, 625, 0.1, available=9000)
    assert found.likely == found.low == 630 and found.available == 9000
    assert found.high is not None and 4 < found.high / 618 < 12


@pytest.mark.parametrize(("gained", "lost", "n", "margin"), [(0, 0, 200, 0.01), (2, 0, 40, 0.1), (10, 11, 60, 0.3)])
def test_the_range_is_that_of_the_shares_after_jeffreys_prior(gained: int, lost: int, n: int, margin: float) -> None:
    """Other draws of the posterior: the 5th and 95th percentiles of 400 vary by a few percent."""
    draws = np.random.default_rng(9).dirichlet((gained + 0.5, lost + 0.5, n - gained - lost + 0.5), 20_000)
    p, q = np.where(draws[:, 0] > draws[:, 1], draws[:, :2].mean(axis=1), draws[:, :2].T)
    low, high = np.quantile(decided(p, q, margin, 1), [0.05, 0.95])
    found = items_needed(gained, lost, n, margin)
    assert found.low == pytest.approx(max(low, n + 1), rel=0.25)
    assert found.high == pytest.approx(max(high, n + 1), rel=0.25)


@pytest.mark.parametrize(("n", "least"), [(1000, 1100), (2000, 2100), (9_899, 9_900)])
def test_the_total_is_more_than_what_was_answered_and_rounded_up(n: int, least: int) -> None:
    found = items_needed(0, 0, n, 0.01)
    assert found.low == found.likely == least
    few = items_needed(0, 0, 50, 0.2)
    assert few.low == few.likely == 51


def test_beyond_the_largest_number_none_is_named() -> None:
    found = items_needed(200, 310, 10_000, 0.011)
    assert found.likely is None and found.high is None and found.low is not None
    assert items_needed(0, 0, MOST, 0.01).low is None and items_needed(0, 0, MOST - 1, 0.01).low == MOST


@pytest.mark.parametrize(
    ("found", "within", "text"),
    [
        (ItemsNeeded(low=410, likely=570, high=7200), True, "some 570 items (410 to 7,200)"),
        (ItemsNeeded(low=410, likely=570, high=None), True, "some 570 items (410 to any number)"),
        (ItemsNeeded(low=410, likely=570, high=7200, available=7200), True, "some 570 items (410 to 7,200)"),
        (
            ItemsNeeded(low=410, likely=570, high=7200, available=7199),
            True,
            "some 570 items (410 to more than the 7,199 that exist)",
        ),
        (
            ItemsNeeded(low=410, likely=1570, high=None, available=1570),
            True,
            "some 1,570 items (410 to more than the 1,570 that exist)",
        ),
        (
            ItemsNeeded(low=1410, likely=1570, high=7200, available=1569),
            False,
            "1,410 items at least, and perhaps more than the 1,569 that exist",
        ),
        (ItemsNeeded(low=1569, likely=1570, high=7200, available=1569), False, "more than the 1,569 items that exist"),
        (ItemsNeeded(low=2000, likely=2500, high=None, available=1569), False, "more than the 1,569 items that exist"),
        (ItemsNeeded(low=410, likely=None, high=None), False, "more items than any set has"),
        (ItemsNeeded(low=None, likely=None, high=None, available=164), False, "more items than any set has"),
        (
            ItemsNeeded(low=41, likely=None, high=None, available=164),
            False,
            "41 items at least, and perhaps more than the 164 that exist",
        ),
    ],
)
def test_the_number_in_words(found: ItemsNeeded, within: bool, text: str) -> None:
    assert found.within_set is within and found.text() == text


@pytest.mark.parametrize(
    ("size", "smallest", "margin"),
    # A set that shows the wanted margin keeps it; else the next multiple of half a point that it shows.
    [(14042, 0.01, 0.01), (14042, 0.012, 0.012), (1319, 0.01, 0.03), (164, 0.0812, 0.085), (164, 0.08, 0.085)],
)
def test_the_least_margin(size: int, smallest: float, margin: float) -> None:
    assert least_margin(size, smallest) == pytest.approx(margin)
    # It is enough by the formula, and half a point less is not.
    for tried, enough in ((margin, True), (margin - STEP, margin == smallest)):
        p = 0.04
        q = (2 * p + 2 * tried + math.sqrt((2 * p + 2 * tried) ** 2 - 8 * p * tried * (1 + tried))) / 4
        side = Z[0.05] * (math.sqrt(2 * q - tried - tried**2) + math.sqrt(2 * p))
        assert (solved(tried, side, 0.5) <= size) == enough or margin == smallest


def test_no_margin_is_more_than_everything() -> None:
    assert least_margin(1, 0.01) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 10, 164, 1319])
def test_a_smaller_loss_is_not_shown_by_identical_answers(size: int) -> None:
    found = never_shown(size)
    assert p_above(0, 0, size, -found) == pytest.approx(0.05, abs=1e-8)
    assert p_above(0, 0, size, -0.999 * found) > 0.05 > p_above(0, 0, size, -1.001 * found)
