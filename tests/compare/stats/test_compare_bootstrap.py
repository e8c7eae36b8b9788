"""The error of a percentile over requests."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.compare.stats.bootstrap import percentile_errors, percentiles


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            arrays.arrays(float, n, elements=st.floats(-1e6, 1e6)),
            arrays.arrays(np.int64, n, elements=st.integers(0, 4)),
        )
    ),
    st.floats(0, 100),
)
# Ranks that are whole numbers: the second of two, the second of four, the last.
@example((np.array([1.0, 2.0]), np.array([1, 1])), 50)
@example((np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 1, 1, 1])), 50)
@example((np.array([1.0, 2.0, 3.0]), np.array([2, 1, 1])), 100)
@example((np.arange(10.0), np.ones(10, np.int64)), 90)
def test_weighted_percentiles_are_those_of_the_repeated_values(drawn, percent) -> None:
    values, counts = np.sort(drawn[0]), drawn[1]
    if counts.sum() == 0:
        counts = counts + 1
    (found,) = percentiles(values, counts, [percent])
    assert found == np.percentile(np.repeat(values, counts), percent, method="inverted_cdf")


def test_the_error_of_a_median_is_the_one_that_theory_gives() -> None:
    # 1 / (2 f(m) sqrt(n)) for density f at the median m; of a standard normal f = 0.399.
    values = np.random.default_rng(1).normal(size=2000)
    (error,) = percentile_errors(values, np.ones(2000, np.int64), [50])
    assert error == pytest.approx(1.2533 / 2000**0.5, rel=0.2)


def test_values_of_one_request_count_as_one_observation() -> None:
    dice = np.random.default_rng(2)
    level = np.repeat(dice.normal(size=50), 40)
    (clustered,) = percentile_errors(level, np.full(50, 40), [50])
    (apart,) = percentile_errors(level, np.ones(2000, np.int64), [50])
    assert clustered > 3 * apart


def test_each_percentile_has_the_error_that_it_has_alone() -> None:
    values, sizes = np.random.default_rng(4).normal(size=60), np.full(20, 3)
    alone = [percentile_errors(values, sizes, [percent])[0] for percent in (50, 90, 99)]
    assert percentile_errors(values, sizes, [50, 90, 99]) == pytest.approx(alone)


def test_the_same_data_give_the_same_errors() -> None:
    values, sizes = np.random.default_rng(3).normal(size=100), np.ones(100, np.int64)
    found = percentile_errors(values, sizes, [50, 99])
    np.random.seed(1)
    assert percentile_errors(values, sizes, [50, 99]) == found
    assert percentile_errors(values, sizes, [50, 99], seed=1) != found


@pytest.mark.parametrize("sizes", [[3], [0, 3], []])
def test_a_single_request_has_no_error(sizes: list[int]) -> None:
    assert percentile_errors(np.arange(float(sum(sizes))), np.array(sizes, np.int64), [50, 90]) == [None, None]


def test_requests_without_a_value_do_not_stop_it() -> None:
    errors = percentile_errors(np.array([1.0, 2.0]), np.array([1, 0, 0, 0, 0, 1]), [50, 99])
    assert all(error is not None and np.isfinite(error) for error in errors)
