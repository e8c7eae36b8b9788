"""Bounds on the worst row, group and channel of a weight: one damaged part of thousands is found, rounding is not."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
