"""Changes of speed between two sessions."""

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.stats.sessions import _equal, session_changes
from pipeline.results.base import Missing

NOW, THEN = [980.0, 1075.0, 902.0], [1000.0, 1100.0, 900.0]


def test_repeats_are_compared_in_pairs():
    """The seeds differ by 20 %, their pairs by 2 %: the interval is that of scipy's paired test of the logarithms."""
    found = session_changes({"a": (NOW, THEN)}, 0.0)["a"]
    expected = stats.ttest_rel(np.log(NOW), np.log(THEN))
    low, high = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((100 * np.expm1(low), 100 * np.expm1(high)))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_unequal_numbers_of_repeats_have_welchs_test():
    found = session_changes({"a": (NOW, [*THEN, 1020.0])}, 0.0)["a"]
    expected = stats.ttest_ind(np.log(NOW), np.log([*THEN, 1020.0]), equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_the_variation_between_sessions_is_in_the_p_value_alone():
    steady = {"a": ([950.0, 950.0, 950.0], [1000.0, 1000.0, 1000.0])}
    found = session_changes(steady, 2.0)["a"]
    assert found.interval.low == pytest.approx(-5) and found.interval.high == pytest.approx(-5)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(-np.log(0.95) / (np.sqrt(2) * np.log(1.02))))
    assert "identical" in session_changes(steady, 0.0)["a"].reason


def test_variances_are_pooled_where_they_are_equal_and_else_the_larger_one_is_taken():
    def spread(found):
        return np.log1p(found.interval.high / 100) - np.log1p(found.interval.low / 100)

    def pair(scale):
        return ((1000 * np.exp(scale * np.array([0.01, -0.01, 0.0]))).tolist(), [1000.0] * 3)

    equal = session_changes({name: pair(scale) for name, scale in (("a", 1.0), ("b", 1.2), ("c", 0.8))}, 0.0)
    assert spread(equal["a"]) == pytest.approx(spread(equal["b"])) == pytest.approx(spread(equal["c"]))
    variance = 1e-4 * (1 + 1.2**2 + 0.8**2) / 3
    assert spread(equal["a"]) == pytest.approx(2 * stats.t.ppf(0.975, 6) * np.sqrt(variance / 3))
    unequal = session_changes({"a": pair(1.0), "b": pair(1.0), "noisy": pair(100.0)}, 0.0)
    assert spread(unequal["noisy"]) == pytest.approx(2 * stats.t.ppf(0.975, 2) * np.sqrt(1 / 3))
    pooled = (1e-4 * 2 + 1) / 3
    assert spread(unequal["a"]) == pytest.approx(2 * stats.t.ppf(0.975, 6) * np.sqrt(pooled / 3))
    # Repeats that do not vary at all have the noise of the others as well.
    still = session_changes({"a": pair(0.0), "b": pair(1.0)}, 0.0)
    assert spread(still["a"]) == pytest.approx(2 * stats.t.ppf(0.975, 4) * np.sqrt(0.5e-4 / 3))


def test_variances_are_equal_unless_bartletts_test_rejects_that():
    draw, seen = np.random.default_rng(0), set()
    for _ in range(200):
        samples = [draw.normal(scale=1 + 2 * draw.random(), size=size) for size in draw.integers(3, 9, 3)]
        variances = np.array([np.var(each, ddof=1) for each in samples])
        equal = _equal(variances, np.array([len(each) - 1.0 for each in samples]))
        assert equal == (stats.bartlett(*samples).pvalue >= 0.05)
        seen.add(equal)
    assert seen == {True, False}
    # Nothing varies, or something does and the rest does not.
    assert _equal(np.zeros(2), np.ones(2)) and not _equal(np.array([0.0, 1.0]), np.ones(2))


@pytest.mark.parametrize(
    ("pair", "reason"),
    [(([], [1.0]), "no repeat finished"), (([0.0, 1.0], [1.0, 1.0]), "above zero"), (([1.0], [1.0, 2.0]), "single")],
)
def test_what_cannot_be_compared_has_a_reason(pair, reason):
    found = session_changes({"a": pair}, 2.0)["a"]
    assert reason in found.reason and (isinstance(found, Missing) or found.interval is None)
