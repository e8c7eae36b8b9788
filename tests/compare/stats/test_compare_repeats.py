import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.compare.stats.intervals import Interval, excludes_zero
from pipeline.compare.stats.repeats import Change, Contrast, Repeated, floor, relative_change, summarize
from pipeline.compare.stats.simultaneous import Student
from pipeline.results.base import Missing

VALUES = st.lists(st.floats(0.01, 1e6), min_size=2, max_size=6)


def test_mean_has_students_interval_of_the_logarithm():
    values = [101.0, 98.0, 104.0]
    found = summarize("tok/s", values)
    assert isinstance(found, Repeated) and found.interval is not None
    logs = np.log(values)
    expected = np.exp(stats.t.interval(0.95, 2, loc=np.mean(logs), scale=stats.sem(logs)))
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected))
    assert (found.spread.low, found.spread.high, found.repeats) == (98.0, 104.0, 3)


@pytest.mark.parametrize("values", [[215.0, 724.0, 3252.0], [1.2, 1.84, 2.9]])
def test_no_interval_holds_an_impossible_value(values):
    found = summarize("tok/s", values)
    assert 0 < found.interval.low < found.mean < found.interval.high


def test_an_interval_beyond_any_meaning_ends_at_a_finite_number():
    found = summarize("tok/s", [1e-100, 1e100])
    assert found.interval.high == pytest.approx(math.exp(300))


def test_single_repeat_has_no_interval():
    found = summarize("ms", [3.0])
    assert isinstance(found, Repeated) and found.interval is None
    change = relative_change([3.0], [2.0, 2.1])
    assert isinstance(change, Change)
    assert change.percent > 0 and not change.is_clear and change.reason


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_what_is_not_a_figure_is_missing(values):
    assert isinstance(summarize("ms", values), Missing)


def test_identical_repeats_claim_nothing():
    change = relative_change([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    assert isinstance(change, Change) and change.interval is None and not change.is_clear


def test_ratio_needs_positive_means():
    assert isinstance(relative_change([1.0, 2.0], [0.0, 0.0]), Missing)
    assert isinstance(relative_change([], [1.0]), Missing)


@given(VALUES, VALUES)
def test_change_is_inside_its_interval_and_above_minus_100(ours, theirs):
    change = relative_change(ours, theirs)
    assert isinstance(change, Change)
    if change.interval is not None:
        assert -100 <= change.interval.low <= change.percent + 1e-6
        assert change.percent <= change.interval.high * (1 + 1e-9) + 1e-6


@given(VALUES, VALUES)
def test_swapping_the_sides_inverts_the_change(ours, theirs):
    there, back = relative_change(ours, theirs), relative_change(theirs, ours)
    assert isinstance(there, Change) and isinstance(back, Change)
    assert (1 + there.percent / 100) * (1 + back.percent / 100) == pytest.approx(1, rel=1e-6)
    if there.interval is not None and back.interval is not None:
        assert there.is_clear == back.is_clear or min(abs(there.interval.low), abs(there.interval.high)) < 1e-6


@given(VALUES, VALUES, st.sampled_from([0.0, 0.01, 1.0]))
def test_the_p_value_says_what_the_interval_says(ours, theirs, error):
    change = relative_change(ours, theirs, [error] * len(ours), [error] * len(theirs))
    assert isinstance(change, Change) and (change.p_value is None) == (change.interval is None)
    if change.p_value is not None and abs(change.p_value - 0.05) > 1e-9:
        assert 0 <= change.p_value <= 1 and change.is_clear == (change.p_value < 0.05)


@given(VALUES)
def test_nothing_differs_from_itself(values):
    change = relative_change(values, values)
    assert isinstance(change, Change) and not change.is_clear


def test_interval_of_a_change_covers_it_as_often_as_it_says():
    dice = np.random.default_rng(7)
    inside, runs = 0, 3000
    for _ in range(runs):
        ours, theirs = 1200 * dice.normal(1, 0.02, 3), 1000 * dice.normal(1, 0.03, 3)
        change = relative_change(ours.tolist(), theirs.tolist())
        assert isinstance(change, Change) and change.interval is not None
        inside += change.interval.contains(20.0)
    assert 0.93 < inside / runs < 0.99


@pytest.mark.parametrize("ours", [[102.0, 101.0, 103.0], [109.0, 110.0, 111.0], [90.0, 91.0, 89.0]])
def test_a_widened_change_says_what_its_interval_says(ours):
    logs = [np.log(ours), np.log([99.0, 100.0, 101.0])]
    error = np.sqrt(sum(np.var(each, ddof=1) / 3 for each in logs))
    contrast = Contrast(float(logs[0].mean() - logs[1].mean()), float(error), 4)
    exact, wide = contrast.change(Student()), contrast.change(Student(), 2.0)
    assert (100 + wide.interval.low) * 1.02 == pytest.approx(100 + exact.interval.low)
    assert (100 + wide.interval.high) / 1.02 == pytest.approx(100 + exact.interval.high)
    assert wide.p_value > exact.p_value and wide.is_clear == (wide.p_value < 0.05)
    assert wide.qualification == "one start of each server, widened by 2 %" and not exact.qualification


def test_zero_is_excluded_only_by_an_interval_that_does():
    assert not excludes_zero(None)
    assert not excludes_zero(Interval(low=0.0, high=1.0))
    assert excludes_zero(Interval(low=0.1, high=1.0)) and excludes_zero(Interval(low=-2, high=-1))


def test_the_floor_is_the_variance_of_the_mean_by_the_errors_of_its_values():
    assert floor([100.0, 200.0], [5.0, 20.0]) == pytest.approx((0.05**2 + 0.1**2) / 4)
    # However many repeats there are, and zero where one's error is unknown.
    assert floor([100.0] * 300, [5.0] * 300) == pytest.approx(0.05**2 / 300)
    assert floor([100.0, 200.0], [5.0, None]) == floor([100.0, 200.0], []) == 0.0


def test_the_p_value_of_a_contrast():
    """That of the difference beyond the bound, and no smaller than the errors within repeats allow."""
    sampled = Contrast(-0.3, 0.1, 4)
    assert sampled.p_value(Student()) == pytest.approx(2 * stats.t.sf(3, 4))
    assert sampled.p_value(Student(), 0.1) == pytest.approx(2 * stats.t.sf(2, 4))
    assert sampled.p_value(Student(), 0.3) == sampled.p_value(Student(), 0.4) == 1.0
    floored = Contrast(0.3, 0.01, 4, 0.15)
    assert floored.p_value(Student()) == pytest.approx(2 * stats.norm.sf(2))
    assert floored.half_width(Student()) == pytest.approx(stats.norm.ppf(0.975) * 0.15)
    assert sampled.half_width(Student(), 0.9) == pytest.approx(stats.t.ppf(0.95, 4) * 0.1)


def test_two_samples_have_welchs_test():
    ours, theirs = [102.0, 101.0, 108.0], [99.0, 100.0, 101.0, 97.0]
    found = relative_change(ours, theirs)
    expected = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((100 * np.expm1(low), 100 * np.expm1(high)))
    assert found.percent == pytest.approx(100 * np.expm1(np.log(ours).mean() - np.log(theirs).mean()))


def test_repeats_without_noise_have_that_of_their_requests():
    found = relative_change([110.0, 110.0], [100.0, 100.0], [11.0, 11.0], [5.0, 5.0])
    half = stats.norm.ppf(0.975) * math.sqrt((0.1**2 + 0.05**2) / 2)
    assert found.interval.high == pytest.approx(100 * math.expm1(math.log(1.1) + half))
    assert found.interval.low == pytest.approx(100 * math.expm1(math.log(1.1) - half))


def test_the_starts_of_servers_widen_an_interval_and_never_narrow_it():
    values = [101.0, 98.0, 104.0]
    alone = summarize("tok/s", values)
    assert summarize("tok/s", values, start=Contrast(0.0, 0.001, 10)).interval == alone.interval
    wide = summarize("tok/s", values, start=Contrast(0.0, 0.2, 10)).interval
    centre, half = np.log(values).mean(), stats.t.ppf(0.975, 10) * 0.2
    assert (wide.low, wide.high) == pytest.approx((math.exp(centre - half), math.exp(centre + half)))
    assert (alone.median, alone.mean) == (101.0, pytest.approx(101.0))
