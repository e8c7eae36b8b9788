"""The sample: its size, its shares, and that it is the same one each time."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.sampling import nested, stratified

SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 40), min_size=1)


def items(sizes: dict[str, int]) -> list[tuple[tuple[str, int], str]]:
    return [((name, i), name) for name, size in sizes.items() for i in range(size)]


@given(SIZES, st.integers(1, 400), st.integers(0, 5))
def test_every_subject_has_its_share(sizes: dict[str, int], limit: int, seed: int) -> None:
    chosen = stratified(items(sizes), limit, seed)
    total = sum(sizes.values())
    assert len(chosen) == len(set(chosen)) == min(limit, total)
    assert chosen == sorted(chosen, key=[item for item, _ in items(sizes)].index)
    counts = Counter(name for name, _ in chosen)
    for name, size in sizes.items():
        assert abs(counts[name] - size * min(1, limit / total)) < 1


@given(SIZES, st.integers(1, 100), st.integers(0, 5))
def test_a_seed_names_one_sample(sizes: dict[str, int], limit: int, seed: int) -> None:
    random.seed(1)
    found = stratified(items(sizes), limit, seed)
    random.seed(2)
    assert stratified(items(sizes), limit, seed) == found


def test_another_seed_draws_others() -> None:
    assert stratified(items({"a": 500}), 50, 0) != stratified(items({"a": 500}), 50, 1)


def test_a_larger_limit_keeps_the_smaller_sample_of_a_subject() -> None:
    assert set(stratified(items({"a": 500}), 50, 0)) < set(stratified(items({"a": 500}), 60, 0))


def test_without_a_limit_all_are_asked() -> None:
    assert len(stratified(items({"a": 3, "b": 4}), None, 0)) == 7


@given(SIZES, st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_larger_share_has_all_items_of_a_smaller_one(
    sizes: dict[str, int], one: float, other: float, seed: int
) -> None:
    small, large = (nested(items(sizes), share, seed) for share in sorted((one, other)))
    assert set(small) <= set(large)
    for share, chosen in zip(sorted((one, other)), (small, large), strict=True):
        total, counts = sum(sizes.values()), Counter(name for name, _ in chosen)
        assert share * total - 1e-6 <= len(chosen) == len(set(chosen)) < share * total + 1
        # Divisor methods may leave the quota by one and the rounding.
        assert all(abs(counts[name] - share * size) <= 2 for name, size in sizes.items())


def test_no_share_is_no_item_and_the_whole_is_all() -> None:
    all_items = items({"a": 5, "b": 9})
    assert nested(all_items, 0.0, 0) == [] and nested(all_items, 1.0, 0) == [item for item, _ in all_items]
