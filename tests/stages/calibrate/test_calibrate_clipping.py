"""Each technique clips where its definition says; none beyond what was seen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.schemes import CALIBRATED
from pipeline.stages.calibrate.clipping import (
    TECHNIQUES,
    Observed,
    Prefixes,
    clip_point,
    divergence,
    limits,
    moving_average,
)
from pipeline.stages.calibrate.histograms import BINS, codes, magnitudes

VALUES = st.lists(st.floats(-500, 500, width=32).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=200)


def observed(values: torch.Tensor) -> Observed:
    values = values.to(torch.bfloat16).float()
    ends = (float(values.min()), float(values.max()))
    counts = torch.bincount(codes(values).flatten(), minlength=BINS)
    return Observed(*ends, average=ends, counts=counts.numpy())


@settings(max_examples=30, deadline=None)
@given(VALUES, st.sampled_from(TECHNIQUES), st.sampled_from(sorted(CALIBRATED)))
def test_a_clip_point_is_positive_and_never_beyond_the_maximum(values: list[float], technique: str, name: str) -> None:
    seen = observed(torch.tensor(values))
    clip = clip_point(seen, technique, CALIBRATED[name])
    assert 0 < clip <= seen.largest
    low, high = limits(seen, clip)
    assert seen.minimum <= low
    assert high <= seen.maximum


def test_minmax_is_the_largest_magnitude() -> None:
    assert clip_point(observed(torch.tensor([-8.0, 3.0])), "minmax", CALIBRATED["int8"]) == 8.0


@given(VALUES)
def test_all_values_are_within_the_hundredth_percentile(values: list[float]) -> None:
    seen = observed(torch.tensor(values))
    assert clip_point(seen, "percentile", CALIBRATED["int8"], 100) == seen.largest


@given(VALUES, st.floats(1, 99.9))
def test_the_share_below_a_percentile_is_at_least_that(values: list[float], percentile: float) -> None:
    seen = observed(torch.tensor(values))
    clip = clip_point(seen, "percentile", CALIBRATED["int8"], percentile)
    rounded = torch.tensor(values).to(torch.bfloat16).abs().double()
    assert float((rounded <= clip).double().mean()) >= percentile / 100 - 1e-9


def error(seen: Observed, clip: float, name: str) -> float:
    number, used = CALIBRATED[name], np.flatnonzero(seen.counts)
    values = magnitudes().numpy()[used]
    scale = clip / number.largest
    return float((seen.counts[used] * (number.round(values / scale) * scale - values) ** 2).sum())


@pytest.mark.parametrize("name", sorted(CALIBRATED))
def test_mse_has_no_larger_error_than_any_other_technique(name: str) -> None:
    torch.manual_seed(0)
    seen = observed(torch.cat([torch.randn(20_000), torch.tensor([60.0])]))
    best = error(seen, clip_point(seen, "mse", CALIBRATED[name]), name)
    for technique in TECHNIQUES:
        # Candidates are an eighth of an octave apart: a percentile may fall between two of them.
        assert best <= error(seen, clip_point(seen, technique, CALIBRATED[name]), name) * 1.05, technique


def test_int8_cuts_a_lone_outlier_off_and_fp8_can_keep_it() -> None:
    torch.manual_seed(0)
    seen = observed(torch.cat([torch.randn(100_000), torch.tensor([100.0])]))
    clips = {name: clip_point(seen, "mse", CALIBRATED[name]) for name in CALIBRATED}
    assert clips["int8"] < 75 < 85 < clips["fp8_e4m3"]
    assert clip_point(seen, "entropy", CALIBRATED["int8"]) < 10


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    seen = observed(torch.linspace(-10, 10, 50_001))
    assert clip_point(seen, "entropy", CALIBRATED["int8"]) > 9


def test_the_moving_average_starts_at_the_first_sample() -> None:
    assert moving_average([(-1.0, 2.0)], 0.01) == (-1.0, 2.0)
    assert moving_average([(-1.0, 2.0), (-3.0, 4.0)], 0.5) == (-2.0, 3.0)


@given(st.lists(st.floats(-448, 448), min_size=1, max_size=50))
def test_fp8_rounds_to_the_nearest_of_its_numbers(values: list[float]) -> None:
    grid = torch.arange(0, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    array = np.array(values, dtype=np.float32).astype(np.float64)
    found = np.abs(CALIBRATED["fp8_e4m3"].round(array))
    nearest = np.abs(np.abs(array)[:, None] - grid[None, :]).min(1)
    assert np.allclose(np.abs(found - np.abs(array)), nearest)


def test_fp8_rounds_as_torch_does_ties_too() -> None:
    array = np.arange(-448, 448, 2.0**-4, dtype=np.float32)
    array = np.concatenate([array, array * np.float32(2.0**-9)])
    wanted = torch.from_numpy(array).to(torch.float8_e4m3fn).double().numpy()
    assert np.array_equal(CALIBRATED["fp8_e4m3"].round(array.astype(np.float64)), wanted)


COUNTS = st.lists(st.sampled_from([0.0, 0.0, 0.2, 1.0, 7.0, 300.0]), min_size=200, max_size=400).filter(any)


@given(COUNTS, st.integers(128, 200), st.sampled_from(sorted(CALIBRATED)))
def test_the_divergence_is_that_of_the_two_distributions_bin_by_bin(counts: list[float], size: int, name: str) -> None:
    number, reference = CALIBRATED[name], np.array(counts)
    original = reference[:size].copy()
    original[-1] += reference[size:].sum()
    level = np.cumsum(np.diff(number.round((np.arange(size) + 0.5) / size * number.largest), prepend=-1) != 0)
    image = np.zeros(size)
    for bins in (level == each for each in np.unique(level)):
        used = bins & (reference[:size] > 0)
        image[used] = reference[:size][bins].sum() / max(1, used.sum())
    image = np.where(original > 0, np.maximum(image, 0.5), 0)
    p, q, positive = original / original.sum(), image / image.sum(), original > 0
    wanted = float(np.sum(p[positive] * np.log(p[positive] / q[positive])))
    assert divergence(Prefixes.of(reference), size, number) == pytest.approx(wanted, abs=1e-9)
