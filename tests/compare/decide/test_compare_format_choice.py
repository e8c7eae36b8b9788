"""The choice of formats under a budget: within it, the best of all, and never worse with more of it."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.decide.format_choice import Option, choose, smallest

OPTIONS = st.lists(
    st.builds(
        Option,
        format=st.sampled_from("abcde"),
        bytes=st.integers(1, 40).map(lambda size: 64 * size),
        cost=st.floats(0, 1e3, allow_subnormal=False),
    ),
    min_size=1,
    max_size=4,
)
GROUPS = st.lists(OPTIONS, min_size=1, max_size=5).map(lambda each: {f"group {i}": own for i, own in enumerate(each)})


def cost(chosen):
    return sum(option.cost for option in chosen.values())


def size(chosen):
    return sum(option.bytes for option in chosen.values())


@given(GROUPS, st.integers(0, 200 * 64))
def test_the_choice_is_the_best_of_all_within_the_budget(groups, budget):
    every = [dict(zip(groups, each, strict=True)) for each in product(*groups.values())]
    allowed = [each for each in every if size(each) <= budget]
    chosen = choose(groups, budget)
    if not allowed:
        assert chosen is None
        return
    assert chosen is not None and list(chosen) == list(groups)
    assert all(option in groups[name] for name, option in chosen.items())
    assert size(chosen) <= budget
    assert cost(chosen) == pytest.approx(min(map(cost, allowed)), rel=1e-6, abs=1e-6)


@given(GROUPS, st.integers(0, 100 * 64), st.integers(0, 100 * 64))
def test_more_bytes_never_cost_more(groups, budget, more):
    start = smallest(groups) + budget
    less, rest = choose(groups, start), choose(groups, start + more)
    assert cost(rest) <= cost(less) + 1e-6


def test_every_byte_counts_in_a_large_model():
    """Sizes of billions of bytes must not hide a few behind the solver's tolerance."""
    large, small = 3_000_000_000, 1_500_000_001
    groups = {
        f"group {i}": [Option(format="8", bytes=small, cost=1 + i), Option(format="16", bytes=large, cost=0)]
        for i in range(40)
    }
    budget = 20 * small + 20 * large
    chosen = choose(groups, budget)
    assert size(chosen) == budget and cost(chosen) == sum(range(1, 21))
    assert size(choose(groups, budget - 1)) == 21 * small + 19 * large


def test_costs_of_any_unit_are_told_apart():
    groups = {"a": [Option(format="4", bytes=1, cost=2e-9), Option(format="8", bytes=2, cost=1e-9)]}
    assert choose(groups, 2)["a"].format == "8" and choose(groups, 1)["a"].format == "4"


def test_options_that_are_larger_and_worse_are_never_taken():
    groups = {"a": [Option(format="4", bytes=1, cost=1), Option(format="8", bytes=2, cost=1)]}
    assert choose(groups, 10)["a"].format == "4"
