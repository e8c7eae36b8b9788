"""The numbers of each element type, against other definitions of the same."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pipeline.formats import elements
from pipeline.formats.elements import ELEMENTS, NF4


def test_nf4_is_made_of_quantiles_of_the_normal_distribution() -> None:
    """QLoRA, appendix E, as bitsandbytes computes it: 8 quantiles above zero, 7 below, over the largest."""
    offset = 0.9677083
    above, below = norm.ppf(np.linspace(offset, 0.5, 9)[:-1]), norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort([*above, 0.0, *-below]) / above.max()
    assert pytest.approx(expected, abs=2e-6) == NF4


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)]
)
def test_largest_and_smallest_numbers_are_torchs(name: str, dtype: torch.dtype) -> None:
    element, known = ELEMENTS[name], torch.finfo(dtype)
    assert element.largest == known.max
    assert 2.0**element.min_exponent == known.smallest_normal
    assert element.mantissa is not None and 2.0**-element.mantissa == known.eps


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)]
)
def test_rounding_is_torchs_and_saturates(name: str, dtype: torch.dtype) -> None:
    element = ELEMENTS[name]
    draw = np.random.default_rng(3)
    values = np.concatenate([draw.normal(0, 2.0**exponent, 200) for exponent in range(-20, 8)])
    values = np.concatenate([values, element.largest * np.array([-1.0, 1.0, 0.999])])
    inside = values[np.abs(values) <= element.largest].astype(np.float32)
    expected = torch.tensor(inside).to(dtype).double().numpy()
    assert np.array_equal(element.round(inside.astype(np.float64)), expected)
    beyond = np.array([-np.inf, 2.0 * element.largest])
    assert element.round(beyond).tolist() == [-element.largest, element.largest]


@pytest.mark.parametrize(("name", "dtype"), [("fp8", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_the_numbers_of_eight_bits_are_torchs(name: str, dtype: torch.dtype) -> None:
    known = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    assert ELEMENTS[name].numbers == tuple(sorted(set(known[known.isfinite()].tolist())))


def test_integers_round_to_even_and_saturate() -> None:
    values = np.array([-300.0, -127.4, -2.5, -0.5, 0.5, 1.5, 126.6, 127.4, 300.0])
    assert elements.INT8.round(values).tolist() == [-127, -127, -2, 0, 0, 2, 127, 127, 127]
    assert elements.INT8.magnitudes == tuple(map(float, range(128)))
    assert elements.INT8.numbers == tuple(map(float, range(-127, 128)))


def test_four_bit_numbers_double_their_steps_at_powers_of_two() -> None:
    assert elements.E2M1.numbers == (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)
    values = np.array([0.25, 0.75, 2.5, 3.5, 5.0, 7.0])
    assert elements.E2M1.round(values).tolist() == [0.0, 1.0, 2.0, 4.0, 4.0, 6.0]
    assert elements.E2M1.round(-values).tolist() == [0.0, -1.0, -2.0, -4.0, -4.0, -6.0]
