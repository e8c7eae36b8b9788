"""Critical values against published tables and scipy's, and p-values against critical values."""

import math

import pytest
from scipy import stats

from pipeline.compare.stats.simultaneous import Dunnett, Student, Tukey, detectable

# C. Dunnett, Biometrics 20, 1964, table II: two-sided, 5 %, by the number of treatments.
DUNNETT = {
    5: (2.57, 3.03, 3.29, 3.48, 3.62),
    10: (2.23, 2.57, 2.76, 2.89, 2.99),
    math.inf: (1.96, 2.21, 2.35, 2.44, 2.51),
}


@pytest.mark.parametrize("freedom", DUNNETT)
def test_dunnetts_table(freedom):
    for comparisons, value in enumerate(DUNNETT[freedom], 1):
        assert Dunnett(comparisons).critical(freedom) == pytest.approx(value, abs=0.006)


@pytest.mark.parametrize(("means", "freedom", "level"), [(3, 1, 0.95), (8, 12, 0.975), (20, 72, 0.95)])
def test_tukey_is_scipys_studentized_range(means, freedom, level):
    expected = stats.studentized_range.ppf(level, means, freedom) / math.sqrt(2)
    assert Tukey(means).critical(freedom, level) == pytest.approx(expected, rel=1e-5)


TESTS = [Student(), Student(5), Dunnett(1), Dunnett(6), Dunnett(18, 0.3), Tukey(2), Tukey(8)]


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("freedom", [1, 2.5, 12, math.inf])
def test_the_p_value_at_the_critical_value_is_the_level(test, freedom):
    for level in (0.95, 0.99):
        critical = test.critical(freedom, level)
        assert test.p_value(critical, freedom) == pytest.approx(1 - level, rel=1e-4)
        assert test.p_value(-critical, freedom) == test.p_value(critical, freedom)
    values = [test.p_value(t, freedom) for t in (0.0, 0.5, 2.0, 5.0, 20.0)]
    assert values == sorted(values, reverse=True) and values[0] == pytest.approx(1, abs=1e-6) and values[-1] >= 0


def test_more_comparisons_and_less_correlation_need_larger_differences():
    found = [Student().critical(12), Dunnett(6).critical(12), Dunnett(6, 0.0).critical(12), Student(6).critical(12)]
    assert found == sorted(found)
    assert Dunnett(6, 0.3).critical(12) > Dunnett(6, 0.5).critical(12) > Dunnett(5, 0.5).critical(12)
    assert Tukey(7).critical(12) > Dunnett(6).critical(12)


def test_a_correlation_is_rounded_down_to_hundredths():
    """A smaller one needs a larger difference: never too small a one is asked for."""
    assert Dunnett(6, 0.309).critical(12) == Dunnett(6, 0.3).critical(12) > Dunnett(6, 0.31).critical(12)
    assert Dunnett(6, -0.2).critical(12) == Dunnett(6, 0.0).critical(12)


@pytest.mark.parametrize("freedom", [2, 12, 1e9])
def test_the_detectable_difference_is_found_in_four_of_five_cases(freedom):
    critical = Student().critical(freedom)
    found = detectable(critical, freedom)
    assert stats.nct.sf(critical, min(freedom, 1e4), found) == pytest.approx(0.8, abs=1e-3)
    assert freedom < 1e8 or found == pytest.approx(1.96 + 0.8416, abs=0.01)
