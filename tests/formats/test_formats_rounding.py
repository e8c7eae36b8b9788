"""Bounds on the worst row, group and channel of a weight: one damaged part of thousands is found, rounding is not."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UnknownFormat
from pipeline.formats import rounding
from pipeline.formats.schemes import SCHEMES

ROUNDED = [name for name, scheme in SCHEMES.items() if scheme.round is not None]
# Scales that are powers of two are never off by less than a factor of two.
WITH_FINE_SCALES = [name for name in ROUNDED if not name.startswith("MX")]
ALGORITHMS = ["rtn", "awq", "gptq"]


def weight_of(seed: int, tails: str = "gauss", rows: int = 512) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 512, generator=draw)
    if tails == "heavy":
        weight /= torch.randn(rows, 512, 3, generator=draw).square().mean(-1).sqrt()
    if tails == "outliers":
        weight *= torch.exp(torch.randn(512, generator=draw))
    return weight


def zeros(image: torch.Tensor) -> None:
    image[7] = 0


def negated(image: torch.Tensor) -> None:
    image[7] *= -1


def exchanged(image: torch.Tensor) -> None:
    image[[7, 300]] = image[[300, 7]]


def group_doubled(image: torch.Tensor) -> None:
    image[7, 128:256] *= 2


def group_shrunk(image: torch.Tensor) -> None:
    image[7, 128:256] /= 8


@pytest.mark.parametrize("damage", [zeros, negated, exchanged, group_doubled, group_shrunk])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scheme", ROUNDED)
def test_one_damaged_row_of_five_hundred_is_found(
    scheme: str, algorithm: str, damage: Callable[[torch.Tensor], None]
) -> None:
    weight, group = weight_of(1), SCHEMES[scheme].group
    nearest = rounding.rounded(weight, scheme, group)
    image = nearest.clone()
    damage(image)
    found = rounding.worst_parts(weight, image, nearest, group, algorithm)
    if group is None and damage in (group_doubled, group_shrunk):
        # The row holds the groups of a format that has none: a quarter of it is off.
        assert found[0].error > 0.3
    assert any(part.error > part.allowed and part.place.split(",")[0] in ("row 7", "row 300") for part in found)


@given(st.integers(0, 1000), st.sampled_from(WITH_FINE_SCALES), st.sampled_from(["gauss", "heavy", "outliers"]))
def test_rounding_with_scales_in_bf16_stays_within_the_bounds(seed: int, scheme: str, tails: str) -> None:
    weight, group = weight_of(seed, tails, rows=64), SCHEMES[scheme].group
    nearest = rounding.rounded(weight, scheme, group)
    # Scales that are off by half a unit of BF16.
    noise = 1 + 2**-9 * (2 * torch.rand(64, 1, generator=torch.Generator().manual_seed(seed)) - 1)
    image = rounding.rounded(weight / noise, scheme, group) * noise
    for part in rounding.worst_parts(weight, image, nearest, group, "rtn"):
        assert part.error <= part.allowed


def test_a_weight_of_zeros_is_right_as_zeros_and_wrong_as_anything_else() -> None:
    zero = torch.zeros(8, 64)
    nearest = rounding.rounded(zero, "W4A16", 32)
    assert rounding.relative_error(zero, nearest) == 0 == rounding.factor_error(zero, nearest, 32)
    assert all(part.error <= part.allowed for part in rounding.worst_parts(zero, nearest, nearest, 32, "rtn"))
    assert rounding.limits(zero, nearest, 32, "rtn").error == 0
    assert rounding.relative_error(zero, zero + 1e-3) == math.inf
    assert any(part.error > part.allowed for part in rounding.worst_parts(zero, zero + 1e-3, nearest, 32, "rtn"))


def test_nvfp4s_blocks_have_scales_in_e4m3() -> None:
    """A block so small that E4M3 has no scale for it is rounded as coarsely as its least scale rounds it."""
    weight = torch.ones(2, 16)
    weight[1] = 2.0**-24
    image = rounding.rounded(weight, "NVFP4", 16)
    assert torch.equal(image[0], weight[0])
    assert not image[1].any()


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


def test_the_error_is_the_distance_over_the_norm() -> None:
    """|(0, 0, 3, 4)| over |(3, 4, 0, 12)| = 5 / 13."""
    original = rows([3.0, 4.0], [0.0, 12.0])
    assert rounding.relative_error(original, original + rows([0.0, 0.0], [3.0, 4.0])) == pytest.approx(5 / 13)
    assert rounding.relative_error(original, original) == 0
    assert rounding.relative_error(original, original * math.nan) == math.inf
    assert rounding.relative_error(original, original * math.inf) == math.inf


def test_the_factor_between_groups_and_images_is_a_projection() -> None:
    """Groups (3, 4) -> (3, 4) times 1.1, and (1, 0) -> (0.8, 5): factors off by 0.1 and -0.2."""
    original, image = rows([3.0, 4.0, 1.0, 0.0]), rows([3.3, 4.4, 0.8, 5.0])
    assert rounding.factor_error(original, image, 2) == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2), rel=1e-5)
    # As one row: (9.9 + 17.6 + 0.8) / 26.
    assert rounding.factor_error(original, image, None) == pytest.approx(28.3 / 26 - 1, rel=1e-5)
    # A group of zeros has no factor.
    with_zeros = rows([3.0, 4.0, 0.0, 0.0]), rows([3.3, 4.4, 1.0, 1.0])
    assert rounding.factor_error(*with_zeros, 2) == pytest.approx(0.1, rel=1e-5)
    assert rounding.factor_error(original, image * math.nan, 2) == math.inf


@pytest.mark.parametrize(
    ("algorithm", "by_error", "by_chance"),
    [("rtn", 1.25, 4.0), ("smoothquant", 1.25, 4.0), ("awq", 1.5, 5.0), ("gptq", 3.0, 4.0), ("unknown", 3.0, 4.0)],
)
def test_limits_are_multiples_of_the_error_of_rounding_to_nearest(
    algorithm: str, by_error: float, by_chance: float
) -> None:
    """An error of 0.1 across the weights, and none along them: groups of 4 have factors off by 0.1 / sqrt(4)."""
    original, nearest = rows([1.0, 1.0, 1.0, 1.0]), rows([1.1, 0.9, 1.1, 0.9])
    error, factor_error = rounding.limits(original, nearest, None, algorithm)
    assert error == pytest.approx(0.1 * by_error, rel=1e-5)
    assert factor_error == pytest.approx(by_chance * by_error * 0.1 / 2 + 2.0**-9, rel=1e-5)
    # Half as many weights in a group, more chance.
    assert rounding.limits(original, nearest, 2, algorithm).factor_error == pytest.approx(
        by_chance * by_error * 0.1 / math.sqrt(2) + 2.0**-9, rel=1e-5
    )


def test_a_format_that_shortens_all_weights_explains_half_as_much_again() -> None:
    original = torch.ones(1, 256)
    error, factor_error = rounding.limits(original, original * 0.9, None, "rtn")
    assert error == pytest.approx(0.125, rel=1e-4)
    # By chance 4 * 0.125 / 16 = 0.031 alone.
    assert factor_error == pytest.approx(1.5 * 0.1 + 2.0**-9, rel=1e-4)
    assert rounding.limits(original, original * math.inf, None, "rtn") == (0.0, 0.0)


def alternating(size: int, error: float) -> torch.Tensor:
    """Errors of one size on ones, of changing signs."""
    return error * torch.tensor([1.0, -1.0]).repeat(size // 2)


@pytest.mark.parametrize(
    ("algorithm", "beside_huge", "tolerance"),
    [("rtn", False, 2.0), ("smoothquant", False, 2.0), ("awq", False, 3.0), ("gptq", False, 3.0), ("gptq", True, 6.0)],
)
def test_the_worst_row_and_group_are_held_against_their_own_errors(
    algorithm: str, beside_huge: bool, tolerance: float
) -> None:
    """Five rows of ones, all 0.1 off when rounded to nearest; one row is 0.4 off, in one group 0.7."""
    original = torch.ones(5, 8)
    nearest = original + alternating(8, 0.1)
    image = nearest.clone()
    image[3] = original[3] + torch.cat([alternating(4, 0.7), alternating(4, 0.1)])
    row, group = rounding.worst_parts(original, image, nearest, 4, algorithm, beside_huge=beside_huge)
    assert (row.place, group.place) == ("row 3", "row 3, group 0")
    # Square means of 0.7 and 0.1 are 0.25.
    assert row.error == pytest.approx(0.5, rel=1e-4) and group.error == pytest.approx(0.7, rel=1e-4)
    assert [row.allowed, group.allowed] == pytest.approx([0.1 * tolerance + 2.0**-8] * 2, rel=1e-4)
    (alone,) = rounding.worst_parts(original, image, nearest, None, algorithm, beside_huge=beside_huge)
    assert alone == row
    # Groups that do not fill a row are of no row, those of a whole row are the row.
    for size in (3, 8, 16):
        assert rounding.worst_parts(original, image, nearest, size, algorithm, beside_huge=beside_huge) == [row]


def test_the_second_group_of_a_row_is_named() -> None:
    original = torch.ones(5, 8)
    nearest = original + alternating(8, 0.1)
    image = nearest.clone()
    image[2, 4:] = 0
    assert [part.place for part in rounding.worst_parts(original, image, nearest, 4, "rtn")] == [
        *("row 2", "row 2, group 1"),
    ]


def test_what_all_rows_share_is_explained_up_to_the_tolerance_of_the_whole_weight() -> None:
    """All rows are moved by twice, then four times, what rounding to nearest does: GPTQ may at most three times."""
    original = torch.ones(5, 8)
    nearest = original + alternating(8, 0.1)
    for moved, peers in ((0.05, 1.0), (0.2, 2.0), (0.4, 3.0)):
        row, *_ = rounding.worst_parts(original, original + alternating(8, moved), nearest, None, "gptq")
        assert row.allowed == pytest.approx(3.0 * 0.1 * peers + 2.0**-8, rel=1e-4)
        row, *_ = rounding.worst_parts(original, original + alternating(8, moved), nearest, None, "rtn")
        assert row.allowed == pytest.approx(2.0 * 0.1 * min(peers, 1.25) + 2.0**-8, rel=1e-4)


def test_a_group_may_have_the_errors_of_its_row_and_a_row_those_of_the_weight() -> None:
    """A row of zeros is of no norm of its own: its error is in units of the rows' root mean square."""
    original = torch.ones(5, 8)
    nearest = original.clone()
    nearest[:, :4] += alternating(4, 0.2)
    image = nearest.clone()
    image[1, 4:] += alternating(4, 0.15)
    _, group = rounding.worst_parts(original, image, nearest, 4, "rtn")
    # Nothing is rounded in the second group, half of the square in the row: 0.2 / sqrt(2).
    assert group.place == "row 1, group 1" and group.error == pytest.approx(0.15, rel=1e-4)
    assert group.allowed == pytest.approx(2.0 * 0.2 / math.sqrt(2) + 2.0**-8, rel=1e-4)
    original[4], nearest[4] = 0, 0
    image = nearest.clone()
    image[4] = 0.003
    (row,) = rounding.worst_parts(original, image, nearest, None, "rtn")
    assert row.place == "row 4"
    # Four rows of ones and one of zeros.
    assert row.error == pytest.approx(0.003 / math.sqrt(0.8), rel=1e-3)
    assert row.allowed == pytest.approx(2.0**-8, rel=1e-3)


def test_a_part_that_is_no_number_is_the_worst_and_no_bound_is_made_of_one() -> None:
    original = torch.ones(3, 4)
    nearest = original + alternating(4, 0.1)
    image = nearest.clone()
    image[1, 2] = math.nan
    (row,) = rounding.worst_parts(original, image, nearest, None, "rtn")
    assert row.place == "row 1" and math.isnan(row.error)
    assert rounding.worst_parts(original, nearest, nearest * math.inf, None, "rtn") == []


@pytest.mark.parametrize(("algorithm", "tolerance"), [("rtn", 1.25), ("awq", 1.5), ("gptq", 3.0)])
def test_the_worst_channel_is_off_by_its_factor(algorithm: str, tolerance: float) -> None:
    """Sixteen outputs: an error of 0.04 in every weight leaves factors within 4 * 0.04 / sqrt(16) of 1."""
    original = torch.ones(16, 3)
    nearest = original + alternating(16, 0.04)[:, None]
    image = nearest.clone()
    image[:, 1] *= 1.5
    found = rounding.worst_channel(original, image, nearest, algorithm, 0.01)
    assert found.place == "input 1" and found.error == pytest.approx(0.5, rel=1e-4)
    assert found.allowed == pytest.approx(0.04 * tolerance + 0.01 + 4 * 2.0**-9, rel=1e-4)
    # The format's own bias explains half as much again.
    # The farthest from its limit, not the farthest from 1: at half of .1, and a tenth of .3.
    slack, kept = torch.full((original.shape[1],), 9.0), torch.ones(original.shape[1])
    slack[:2], kept[:2] = torch.tensor([0.1, 0.3]), torch.tensor([0.5, 0.1])
    assert rounding.worst_channel(original, original * kept, original, algorithm, slack).place == "input 0"
    shorter = rounding.worst_channel(original, original * 0.5, original * 0.8, algorithm, 0.0)
    by_chance = 4 * 0.2 * tolerance / 4
    assert shorter.allowed == pytest.approx(max(1.5 * 0.2, by_chance) + 4 * 2.0**-9, rel=1e-4)
    assert shorter.error == pytest.approx(0.5, rel=1e-4)


def test_the_factor_of_a_row_may_be_off_by_what_rounding_takes_from_it() -> None:
    """All but one weight of the first row are rounded to zero, a tenth of its square; the second is exact."""
    original = torch.full((2, 129), 0.03)
    original[:, 0] = 1.0
    nearest = original.clone()
    nearest[0, 1:] = 0.0
    lost = 128 * 0.03**2
    explained = rounding.explained_factors(original, nearest, "rtn", 1)
    assert explained.tolist() == pytest.approx([1.5 * lost / (1 + lost), 0.0])


def test_a_channel_of_almost_nothing_is_measured_by_the_usual_one() -> None:
    original = torch.ones(4, 2)
    original[:, 1] = 2.0**-12
    image = original.clone()
    image[:, 1] = 0
    found = rounding.worst_channel(original, image, original, "rtn", 0.0)
    # Its length counts as 2^-8 of the root mean square, sqrt(1 / 2): off = (2^-12)^2 / (2^-16 / 2).
    assert found.place == "input 1" and found.error == pytest.approx(2.0**-7, rel=1e-3)


def test_huge_inputs_are_ten_times_the_median_tokens() -> None:
    tokens = torch.ones(5, 4)
    assert not rounding.has_huge(tokens)
    tokens[2] = 10.0
    assert not rounding.has_huge(tokens)
    tokens[2] = 10.5
    assert rounding.has_huge(tokens)


def test_heavy_rows_lose_five_times_the_median_rows_output() -> None:
    original, inputs = torch.ones(5, 2), rows([3.0, 0.0], [0.0, 4.0])
    nearest = original.clone()
    nearest[:, 0] += torch.tensor([0.1, -0.1, 0.1, 0.45, -0.55])
    assert rounding.heavy_rows(original, nearest, inputs).tolist() == [False, False, False, False, True]


def test_outputs_may_err_by_twice_what_rounding_to_nearest_does() -> None:
    """Rows 1 and 3 of four: outputs of 5, (3, 4) of one token each; 0.1 of it lost by rounding, 0.3 and 0.5 in all."""
    original, inputs = torch.ones(4, 2), rows([3.0, 0.0], [0.0, 4.0])
    nearest, image = original * 0.9, original.clone()
    image[1], image[2], image[3] = 0.7, -9.0, 1.5
    found = rounding.worst_outputs(original, image, nearest, inputs, torch.tensor([False, True, False, True]))
    assert found.place == "outputs of row 3"
    assert (found.error, found.allowed) == (pytest.approx(0.5, rel=1e-4), pytest.approx(0.2, rel=1e-4))


def test_what_does_not_round_is_named() -> None:
    for name in ("Q4_K_M", "nothing"):
        with pytest.raises(UnknownFormat, match=f"how {name} rounds"):
            rounding.rounded(torch.ones(1, 256), name, None)
    assert rounding.rounded(torch.ones(1, 256), "Q6_K", None).shape == (1, 256)
