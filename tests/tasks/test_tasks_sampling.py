"""The sample: its size, its shares, and that it is the same one each time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.sampling import stratified

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
    assert stratified(items(sizes), limit, seed) == stratified(items(sizes), limit, seed)


def test_another_seed_draws_others() -> None:
    assert stratified(items({"a": 500}), 50, 0) != stratified(items({"a": 500}), 50, 1)


def test_a_larger_limit_keeps_the_smaller_sample_of_a_subject() -> None:
    assert set(stratified(items({"a": 500}), 50, 0)) < set(stratified(items({"a": 500}), 60, 0))


def test_without_a_limit_all_are_asked() -> None:
    assert len(stratified(items({"a": 3, "b": 4}), None, 0)) == 7
