"""Throughput that rises or falls with time is seen before and during a measurement, as far as the numbers allow."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from pipeline.results.bench import LoadResult, Metric
from pipeline.stages.bench import trends

NAME = "total_token_throughput"
TOLERANCE = 0.05


def rounds(number: int, growth: float, cv: float, seed: int, runs: int = 400) -> list[list[float]]:
    noise = np.random.default_rng(seed).normal(0, cv, (runs, number))
    found: list[list[float]] = (14_000 * np.exp(noise + np.log1p(growth) * np.arange(number))).tolist()
    return found


def load(name: str, values: list[float]) -> LoadResult:
    return LoadResult(
        name=name,
        request_rate="inf",
        max_concurrency=None,
        num_prompts=64,
        metrics={NAME: Metric(unit="tok/s", values=tuple(values))},
        asked=64,
        completed=64,
        failed=0,
    )


def test_the_trend_is_that_of_a_textbook() -> None:
    values = [100.0, 112.0, 109.0, 131.0, 128.0]
    found, expected = trends.trend([values]), stats.linregress(range(5), np.log(values))
    assert found.slope == pytest.approx(expected.slope)
    assert found.error == pytest.approx(expected.stderr)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.highest == pytest.approx(expected.slope + stats.t.ppf(0.95, 3) * expected.stderr)


def test_loads_have_levels_of_their_own_and_one_slope() -> None:
    steady = trends.trend([[100.0, 101.0, 100.0], [900.0, 899.0, 900.0], [10.0, 10.1, 10.0]])
    assert abs(steady.slope) < 0.001 and steady.freedom == 5
    rising = trends.trend([[100.0, 110.0], [900.0, 990.0], [10.0, 11.1]])
    assert rising.slope == pytest.approx(np.log(1.1), abs=0.01) and rising.freedom == 2
    assert rising.p_value < 0.01
    assert trends.trend([[1.0, 2.0]]) is None
    assert trends.trend([]) is None


def test_the_detectable_trend_is_found_in_four_of_five_runs() -> None:
    true = trends.Trend(0.0, 0.06 / np.sqrt(10), 3).detectable
    runs = np.random.default_rng(5).normal(0, 0.06, (4000, 5)) + true * np.arange(5)
    x = np.arange(5) - 2
    slopes = runs @ x / 10
    rest = ((runs - runs.mean(1, keepdims=True) - slopes[:, None] * x) ** 2).sum(1)
    p_values = 2 * stats.t.sf(np.abs(slopes) / np.sqrt(rest / 3 / 10), 3)
    assert (p_values <= trends.TREND_ALPHA).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("cv", [0.01, 0.06])
def test_a_warm_up_that_still_grows_8_percent_a_round_fails(cv: float) -> None:
    passed = [trends.warm_up(each, TOLERANCE, 64).passed for each in rounds(5, 0.08, cv, seed=1)]
    assert None not in passed
    assert np.mean(passed) <= 0.02
    # The rule of two rounds in turn passes it almost always.
    old = [any(abs(b / a - 1) <= 0.1 for a, b in pairwise(each)) for each in rounds(5, 0.08, cv, 1)]
    assert np.mean(old) > 0.9


def test_a_warm_up_that_is_steady_passes() -> None:
    assert np.mean([trends.warm_up(each, TOLERANCE, 64).passed for each in rounds(5, 0, 0.01, seed=2)]) == 1
    assert np.mean([trends.warm_up(each, TOLERANCE, 64).passed for each in rounds(8, 0, 0.06, seed=2)]) > 0.95


def test_one_discarded_repeat_is_not_called_steady_by_itself() -> None:
    guard = trends.warm_up([14_000.0], TOLERANCE, 64)
    assert guard.passed is None
    assert guard.text == "1 discarded round of 64 distinct prompts: 14000 tok/s; the trend over repeats judges it"
    assert trends.warm_up([], TOLERANCE, 0).passed is False
    assert trends.warm_up([1.0], TOLERANCE, 0).passed is False


def test_warm_up_ends_when_a_rise_is_ruled_out() -> None:
    assert not trends.is_steady([100.0], TOLERANCE)
    assert not trends.is_steady([100.0, 100.0], TOLERANCE)
    assert trends.is_steady([100.0, 100.1, 100.0], TOLERANCE)
    assert not trends.is_steady([100.0, 108.0, 117.0], TOLERANCE)
    assert trends.is_steady([108.0, 104.0, 100.0], TOLERANCE)


@pytest.mark.parametrize("growth", [0.08, -0.08])
def test_repeats_that_drift_are_marked(growth: float) -> None:
    failed = [trends.repeats([load("a", each)]).passed is False for each in rounds(5, growth, 0.01, seed=3)]
    assert np.mean(failed) > 0.95


@pytest.mark.parametrize("number", [3, 5])
def test_repeats_that_do_not_drift_are_marked_in_one_of_a_hundred_runs(number: int) -> None:
    failed = [trends.repeats([load("a", each)]).passed is False for each in rounds(number, 0, 0.06, 4, runs=2000)]
    assert np.mean(failed) == pytest.approx(0.01, abs=0.006)


def test_a_drift_too_small_to_matter_is_not_marked() -> None:
    assert trends.repeats([load("a", [100.0, 100.5, 101.0])]).passed is True
    assert trends.repeats([load("a", [100.0, 101.5, 103.0])]).passed is False


def test_three_noisy_repeats_say_how_little_they_show() -> None:
    guard = trends.repeats([load("a", [14_000.0, 15_500.0, 14_800.0])])
    assert guard.passed is True
    assert "over 3 repeats of 1 load" in guard.text
    found = trends.trend([[14_000.0, 15_500.0, 14_800.0]])
    assert f"a trend of {100 * found.detectable:.1f} % a repeat is found with 80 %" in guard.text
    assert found.detectable > 1


def test_a_single_repeat_shows_no_trend() -> None:
    assert trends.repeats([load("a", [1.0]), load("b", [2.0])]).passed is None


def test_p_values_are_those_of_students_t() -> None:
    for slope, error, freedom in ((0.02, 0.01, 3), (-0.02, 0.01, 3), (0.05, 0.01, 1), (0.0, 0.01, 7)):
        found = trends.Trend(slope, error, freedom)
        assert found.p_value == pytest.approx(2 * stats.t.sf(abs(slope) / error, freedom))
        assert found.highest == pytest.approx(slope + stats.t.ppf(0.95, freedom) * error)
    # Rounds on a line.
    assert trends.Trend(0.0, 0.0, 3).p_value == 1 and trends.Trend(0.01, 0.0, 3).p_value == 0
    # Zero of a noncentral t that exceeds the two-sided bound of 1 % in four of five runs.
    found = trends.Trend(0.0, 0.01, 5)
    exceeded = stats.nct.sf(stats.t.ppf(0.995, 5), 5, found.detectable / 0.01)
    assert exceeded == pytest.approx(0.8, abs=1e-4)


def test_a_line_through_exact_growth_is_exact() -> None:
    found = trends.trend([[100.0, 110.0, 121.0], [5.0, 5.5], [7.0], [0.0, 1.0], [-1.0, 2.0]])
    assert found is not None
    assert found.slope == pytest.approx(np.log(1.1)) and found.error == pytest.approx(0, abs=1e-9)
    assert found.freedom == 2, "a single round, and series with a zero, show nothing"


def test_two_series_share_a_slope_by_least_squares() -> None:
    """By a regression with a dummy for each series."""
    series = [[100.0, 104.0, 99.0], [50.0, 55.0], [10.0, 9.0, 9.5, 10.5]]
    rows, values = [], []
    for place, each in enumerate(series):
        for index, value in enumerate(each):
            rows.append([index, *(float(place == other) for other in range(3))])
            values.append(np.log(value))
    design, logs = np.array(rows), np.array(values)
    solved, (rest,), *_ = np.linalg.lstsq(design, logs, rcond=None)
    error = np.sqrt(rest / (9 - 4) * np.linalg.inv(design.T @ design)[0, 0])
    found = trends.trend(series)
    assert found is not None
    assert (found.slope, found.error, found.freedom) == (pytest.approx(solved[0]), pytest.approx(error), 5)


@pytest.mark.parametrize(("rates", "slope"), [([100.0, 100.0, 100.0], "+0.0"), ([100.0, 101.0, 100.0, 101.0], "+0.2")])
def test_a_steady_warm_up_says_what_it_rules_out(rates: list[float], slope: str) -> None:
    found = trends.trend([rates])
    assert found is not None
    guard = trends.warm_up(rates, TOLERANCE, 64)
    shown = ", ".join(f"{rate:.0f}" for rate in rates)
    assert guard.passed is True and guard.load is None
    assert guard.text.startswith(
        f"{len(rates)} discarded rounds of 64 distinct prompts: {shown} tok/s; {slope} % a round"
    )
    assert guard.text.endswith(f"a rise above +{100 * found.highest:.1f} % is ruled out")


def test_a_warm_up_of_nothing_is_none() -> None:
    nothing = "nothing was sent before the first measured request"
    for rounds_, requested in (([], 64), ([100.0, 100.0, 100.0], 0), ([], 0)):
        guard = trends.warm_up(rounds_, TOLERANCE, requested)
        assert (guard.passed, guard.text, guard.name) == (False, nothing, "warm-up")
    two = trends.warm_up([100.0, 100.0], TOLERANCE, 64)
    assert two.passed is None and two.text.endswith("100, 100 tok/s; the trend over repeats judges it")


def test_a_rise_of_the_tolerance_is_not_ruled_out_by_a_line_that_rises_so() -> None:
    line = [100.0, 105.0, 110.25]
    slope = float(np.log(1.05))
    assert not trends.is_steady(line, slope * (1 - 1e-9)) and trends.is_steady(line, slope * (1 + 1e-6))


def test_a_trend_counts_repeats_and_loads_and_changes_two_percent_in_all() -> None:
    guard = trends.repeats([load("a", [100.0, 103.0, 106.1]), load("b", [50.0, 51.5]), load("c", [9.0])])
    assert guard.passed is False and guard.load is None
    assert guard.text.startswith("+3.0 % throughput a repeat over 3 repeats of 2 loads (p = ")
    # 1.9 % and 2.1 % over two steps, without noise.
    for change, passed in ((1.019, True), (1.021, False)):
        exact = [100.0, 100.0 * change**0.5, 100.0 * change]
        assert trends.repeats([load("a", exact)]).passed is passed
        assert trends.repeats([load("a", exact[::-1])]).passed is passed
    unmeasured = load("a", [1.0, 2.0, 3.0]).model_copy(update={"metrics": {}})
    guard = trends.repeats([unmeasured])
    assert guard.passed is None and guard.text == "a trend over time needs three repeats of a load, or two of several"
