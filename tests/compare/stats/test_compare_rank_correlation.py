"""Rank correlation: hand cases, and scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline.compare.stats.rank_correlation import rank_correlation


def test_ranks() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 25]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is rank_correlation([1, 2, 3], [2, 2, 2]) is None
    # Two are always in the same order or in the opposite one.
    assert rank_correlation([1, 2], [1, 2]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_ranks_are_scipys(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found = rank_correlation(ours, theirs)
    if found is None:
        assert 1 in (len(set(ours)), len(set(theirs)))
    else:
        assert found == pytest.approx(spearmanr(ours, theirs).statistic)
