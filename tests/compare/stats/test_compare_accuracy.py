import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.compare.stats.accuracy import (
    Accuracy,
    Mean,
    PairedDifference,
    accuracy,
    adjusted_wald,
    bootstrap_mean,
    fisher,
    mcnemar,
    mean_over_tasks,
    paired_difference,
    wilson,
)
from pipeline.results.base import Missing

COUNTS = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 300))


def scores(values, prefix="item"):
    return [(f"{prefix} {i}", float(value)) for i, value in enumerate(values)]


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_has_wilsons_interval(case):
    right, n = case
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    found = wilson(right / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= right / n <= found.high <= 1


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_is_the_exact_binomial_test(gained, lost):
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_fishers_exact_test_is_that_of_scipy(n: int, m: int, data: st.DataObject) -> None:
    ours, theirs = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    table = [[ours, n - ours], [theirs, m - theirs]]
    tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
    assert fisher(ours, n, theirs, m) == pytest.approx(min(1.0, 2 * min(tails)))


@given(COUNTS)
def test_paired_interval_holds_its_difference_and_is_symmetric(case):
    gained, lost, same = case
    n = gained + lost + same
    found, mirrored = adjusted_wald(gained, lost, n), adjusted_wald(lost, gained, n)
    assert -1 <= found.low <= (gained - lost) / n <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))


@pytest.mark.parametrize(("gain", "loss", "n"), [(0.03, 0.05, 200), (0.01, 0.01, 164), (0.08, 0.02, 500)])
def test_paired_interval_covers_the_difference_as_often_as_it_says(gain, loss, n):
    drawn = np.random.default_rng(3).multinomial(n, [gain, loss, 1 - gain - loss], size=3000)
    inside = [adjusted_wald(int(b), int(c), n).contains(gain - loss) for b, c, _ in drawn]
    assert 0.94 < np.mean(inside) <= 1


def test_differences_are_taken_item_by_item_in_any_order():
    ours, theirs = scores([1, 1, 0, 1, 0]), scores([1, 0, 1, 0, 0])
    found = paired_difference(ours, theirs[::-1])
    assert isinstance(found, PairedDifference)
    assert (found.gained, found.lost, found.n) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)
    assert found.within_noise and found.method == "adjusted Wald, McNemar"


def test_items_that_are_there_twice_are_matched_in_order():
    ours, theirs = [("a", 1.0), ("a", 0.0)], [("a", 0.0), ("a", 0.0)]
    found = paired_difference(ours, theirs)
    assert isinstance(found, PairedDifference) and (found.gained, found.lost) == (1, 0)


@pytest.mark.parametrize("theirs", [scores([1, 0]), scores([1, 0, 1], "other"), []])
def test_other_items_are_not_paired(theirs):
    found = paired_difference(scores([1, 0, 1]), theirs)
    assert isinstance(found, Missing) and found.reason


def test_large_one_sided_loss_is_clear():
    found = paired_difference(scores([0] * 20 + [1] * 180), scores([1] * 200))
    assert isinstance(found, PairedDifference)
    assert found.is_clear and found.difference == -0.1 and found.p_value < 1e-4


def test_graded_scores_have_students_interval():
    ours, theirs = [0.5, 0.75, 0.9, 0.3], [0.4, 0.8, 0.7, 0.1]
    found = paired_difference(scores(ours), scores(theirs))
    assert isinstance(found, PairedDifference) and found.interval is not None
    expected = stats.ttest_rel(ours, theirs)
    ends = expected.confidence_interval(0.95)
    assert found.method == "paired t" and found.p_value == pytest.approx(expected.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))


def test_graded_scores_that_differ_alike_have_the_p_value_of_their_interval():
    found = paired_difference(scores([0.5] * 8), scores([0.75] * 8))
    assert isinstance(found, PairedDifference) and found.is_clear and found.p_value == 0
    one = paired_difference(scores([0.5]), scores([0.75]))
    assert isinstance(one, PairedDifference) and one.interval is None and one.p_value == 1


@pytest.mark.parametrize("n", [1, 16, 400])
def test_graded_scores_that_are_all_the_same_have_the_interval_of_as_many_answers(n):
    """Sixteen equal scores were an interval of no width, and showed that nothing was lost."""
    found = paired_difference(scores([0.3, 0.7] * n)[:n], scores([0.3, 0.7] * n)[:n])
    assert isinstance(found, PairedDifference)
    assert found.interval == adjusted_wald(0, 0, n) and found.interval.low < 0 < found.interval.high
    assert (found.difference, found.p_value, found.gained, found.lost) == (0, 1, 0, 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=120))
def test_a_difference_is_clear_where_it_is_as_large_as_so_many_standard_errors(items):
    """Both counts and the items have one more of each kind: (b - c)^2 > z^2 (b + c + 2 - (b - c)^2 / (n + 2))."""
    found = paired_difference(scores([a for a, _ in items]), scores([b for _, b in items]))
    assert isinstance(found, PairedDifference) and found.interval is not None
    gained, lost = sum(a > b for a, b in items), sum(a < b for a, b in items)
    square = (gained - lost) ** 2
    assert found.is_clear == (square > stats.norm.isf(0.025) ** 2 * (gained + lost + 2 - square / (len(items) + 2)))
    assert found.within_noise is not found.is_clear
    if found.is_clear:
        assert (found.difference > 0) == (found.interval.low > 0)


def test_the_bootstrap_is_scipys() -> None:
    differences = [1.0] * 14 + [-1.0] * 22 + [0.0] * 264
    found = bootstrap_mean(differences)
    assert found is not None
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)
    assert bootstrap_mean([0.0] * 5) is None
    graded = list(np.random.default_rng(2).normal(0.02, 0.1, 150))
    found = bootstrap_mean(graded)
    expected = stats.bootstrap(
        (graded,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found is not None and (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.001)


@pytest.mark.parametrize("ours", [[1.0, 0.0, 1.0, 1.0], [0.5, 0.25, 1.0, 0.75]])
def test_the_bootstrap_is_computed_where_it_is_asked_for(ours):
    pair = scores(ours), scores([0, 1, 0, 1])
    assert paired_difference(*pair).bootstrap is None
    found = paired_difference(*pair, bootstrap=True)
    assert found.bootstrap == bootstrap_mean([a - b for (_, a), (_, b) in zip(*pair, strict=True)])
    assert found.bootstrap.low < found.difference < found.bootstrap.high


def test_mean_over_tasks_adds_variances():
    part = paired_difference(scores([0] * 8 + [1] * 92), scores([1] * 100))
    assert isinstance(part, PairedDifference) and part.interval is not None
    mean = mean_over_tasks([(part.difference, part.interval)] * 4)
    assert isinstance(mean, Mean) and mean.interval is not None
    assert mean.value == pytest.approx(part.difference)
    assert mean.interval.high - mean.interval.low == pytest.approx((part.interval.high - part.interval.low) / 2)
    assert isinstance(mean_over_tasks([]), Missing)


def test_accuracy_without_items_is_missing():
    assert isinstance(accuracy(0.5, 0, 10), Missing)
    assert isinstance(accuracy(float("nan"), 10, 10), Missing)
    found = accuracy(0.5, 10, 12)
    assert isinstance(found, Accuracy) and found.interval == wilson(0.5, 10)
    graded = accuracy(0.5, 2, 2, scores([0.4, 0.6]))
    assert isinstance(graded, Accuracy) and graded.interval != wilson(0.5, 2)
    assert accuracy(31.5, 10, 10).interval is None
