"""Intervals, the rule for a claim, and Holm's correction."""

from __future__ import annotations

import math

import pytest

from pipeline.compare.stats.intervals import Interval, excludes_zero, holm, percent_of


def test_the_ends_are_inside() -> None:
    around = Interval(low=-1.0, high=2.0)
    assert [around.contains(value) for value in (-1.01, -1.0, 0.0, 2.0, 2.01)] == [False, True, True, True, False]


def test_zero_is_excluded_by_an_interval_on_one_side_of_it() -> None:
    ends = [(0.1, 1.0), (-2.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0)]
    assert [excludes_zero(Interval(low=low, high=high)) for low, high in ends] == [True, True, False, False, False]
    assert not excludes_zero(None)


def test_a_difference_of_logarithms_in_percent() -> None:
    assert percent_of(math.log(1.25)) == pytest.approx(25) and percent_of(-math.log(2)) == pytest.approx(-50)
    assert percent_of(0.0) == 0 and percent_of(1000.0) == percent_of(300.0) == 100 * math.expm1(300)


def test_holms_correction_in_the_order_of_the_p_values() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.5}) == {"b": 1.0, "a": 1.0} and holm({"a": 0.2}) == {"a": 0.2} and holm({}) == {}
