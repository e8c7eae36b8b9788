"""Rounding to nearest in each kind of format, by hand on a few weights."""

import pytest
import torch

from pipeline.formats import grids
from pipeline.formats.elements import E2M1
from pipeline.formats.grids import Round

SMALL = 2.0**-20


def image(rule: Round, weight: list[list[float]], group: int | None = None) -> torch.Tensor:
    return rule(torch.tensor(weight), group)


def close(found: torch.Tensor, expected: list[list[float]]) -> bool:
    return bool(torch.allclose(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=0))


def test_integers_symmetric_around_zero_have_one_more_below() -> None:
    """The largest magnitude is at 7.5 steps of 16, so that either end is half a step away."""
    weight = [[7.5, -7.5, 1.4, 0.4], [30.0, -9.0, 5.9, -30.0]]
    assert close(image(grids.symmetric(4), weight), [[7, -8, 1, 0], [28, -8, 4, -32]])
    # Each half of a row with a scale of its own: of 15 steps from end to end.
    assert close(image(grids.symmetric(4), weight, 2)[:, :1], [[7], [28]])
    assert close(image(grids.symmetric(8), [[127.5, 1.4, -127.5, 9.6]]), [[127, 1, -128, 10]])


def test_groups_are_consecutive_weights_of_a_row() -> None:
    weight = [[7.5, 3.2, 75.0, 32.0, 0.75, 0.32], [-7.5, 1.0, -15.0, 2.0, -30.0, 4.0]]
    expected = [[7, 3, 70, 30, 0.7, 0.3], [-8, 1, -16, 2, -32, 4]]
    assert close(image(grids.symmetric(4), weight, 2), expected)
    assert close(image(grids.grouped(grids.symmetric(4), 2), weight, 6), expected)
    assert not close(image(grids.symmetric(4), weight, 6), expected)


def test_integers_with_a_zero_point_reach_from_the_smallest_to_the_largest() -> None:
    weight = [[-3.0, 12.0, 0.4, 4.6], [2.0, 30.0, 6.6, 11.4], [-30.0, -2.0, -6.6, -11.4]]
    # Zero is always one of the numbers: rows of one sign reach to it.
    assert close(image(grids.asymmetric(4), weight), [[-3, 12, 0, 5], [2, 30, 6, 12], [-30, -2, -6, -12]])
    assert close(image(grids.asymmetric(4), [[-3.0, 12.0, 2.0, 30.0]], 2), [[-3, 12, 2, 30]])
    assert close(image(grids.asymmetric(8), [[-55.0, 200.0, 0.4]]), [[-55, 200, 0]])


def test_a_zero_point_between_two_integers_is_rounded() -> None:
    """Steps of 1, a zero point of 7.5 rounded to 8: the largest weight is beyond the largest code."""
    assert close(image(grids.asymmetric(4), [[-7.5, 7.5, 0.0, 1.2]]), [[-8, 7, 0, 1]])


@pytest.mark.parametrize(("per_tensor", "last"), [(True, [6.0, 3.0, 0.3125]), (False, [6.0, 3.0, 22 * 6 / 448])])
def test_e4m3_has_a_scale_for_the_tensor_or_for_each_row(per_tensor: bool, last: list[float]) -> None:
    found = image(grids.fp8(per_tensor), [[448.0, -1.0, 0.3], [6.0, 3.0, 0.3]])
    assert close(found, [[448, -1, 0.3125], last])


def test_e4m3_has_a_scale_for_each_square_block_also_at_the_edges() -> None:
    weight = [[448.0, 0.3, 6.0], [1.0, 2.0, 0.3], [-224.0, 0.3, 3.0]]
    assert close(image(grids.fp8_blocks(2), weight), [[448, 0.3125, 6], [1, 2, 22 * 6 / 448], [-224, 0.3125, 3]])


def test_blocks_at_the_edges_have_scales_of_their_own() -> None:
    """Four rows and columns in squares of three: the last of each are blocks of one by three, three by one, and one."""
    weight = [[448.0, 0.3, 1.0, 6.0], [1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [3.0, 0.3, 1.0, 5.0]]
    inside = [[448, 0.3125, 1], [1, 1, 1], [2, 2, 2], [3, 44 * 3 / 448, 144 * 3 / 448]]
    edge = [6, 72 * 6 / 448, 144 * 6 / 448, 5]
    expected = [[*row, last] for row, last in zip(inside, edge, strict=True)]
    assert close(image(grids.fp8_blocks(3), weight), expected)


def test_a_table_is_rounded_to_its_nearest_number_in_each_block() -> None:
    weight = [[6.0, -2.4, 0.2, 5.1], [12.0, 4.8, -0.4, -10.2]]
    assert close(image(grids.table(E2M1.numbers), weight), [[6, -2, 0, 6], [12, 4, 0, -12]])
    assert close(image(grids.table(E2M1.numbers), [[6.0, 2.4, 3.0, 1.2]], 2), [[6, 2, 3, 1]])
    # The largest magnitude is the largest number, also where the numbers are not the same on both sides.
    assert close(image(grids.table((-1.0, 0.0, 0.25, 1.0)), [[-8.0, -3.9, 4.0, 0.9, 1.1]]), [[-8, 0, 2, 0, 2]])


def test_scales_are_exact_powers_of_two_or_e4m3_numbers() -> None:
    largest = torch.tensor([[6.0], [3.0], [1.9], [0.75]])
    assert close(grids.exact(largest, 6.0), [[1], [0.5], [1.9 / 6], [0.125]])
    # 2 to the exponent of the maximum, less that of 6.
    assert close(grids.power_of_two(largest, 6.0), [[1], [0.5], [0.25], [0.125]])
    assert close(grids.power_of_two(torch.tensor([[448.0], [450.0], [512.0], [255.0]]), 448.0), [[1], [1], [2], [0.5]])
    # 448 for the largest block; 141.87 is between 128 and 144 in steps of 16.
    assert close(grids.e4m3(largest, 6.0), [[1], [0.5], [144 / 448], [0.125]])
    tiny = grids.e4m3(torch.tensor([[6.0], [6.0 * SMALL]]), 6.0)
    assert close(tiny, [[1], [2.0**-9 / 448]])


@pytest.mark.parametrize(
    ("rule", "group"),
    [
        (grids.symmetric(4), 4),
        (grids.asymmetric(4), 4),
        (grids.fp8(per_tensor=True), None),
        (grids.fp8(per_tensor=False), None),
        (grids.fp8_blocks(2), None),
        (grids.table(E2M1.numbers), 4),
        (grids.table(E2M1.numbers, grids.power_of_two), 4),
        (grids.table(E2M1.numbers, grids.e4m3), 4),
    ],
)
def test_small_weights_are_rounded_like_large_ones_and_zeros_stay(rule: Round, group: int | None) -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    found = rule(weight, group)
    assert found.shape == weight.shape
    assert torch.equal(rule(weight * SMALL, group), found * SMALL)
    assert not rule(torch.zeros(4, 8), group).any()
