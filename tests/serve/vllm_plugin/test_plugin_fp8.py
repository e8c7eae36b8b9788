"""The FP8 grids: equal to torch's own conversion for every value, whatever its size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serve.vllm_plugin import fp8

FORMATS = [fp8.E4M3, fp8.E5M2]


def by_torch(values: torch.Tensor, fmt: fp8.Fp8Format) -> torch.Tensor:
    clamped = values.to(torch.float32).clamp(-fmt.max_value, fmt.max_value)
    return clamped.to(fmt.dtype).to(torch.float32)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def every_bfloat16() -> torch.Tensor:
    values = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    return values[values.isfinite()]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_every_finite_bfloat16(fmt: fp8.Fp8Format) -> None:
    values = every_bfloat16()
    assert len(values) == 2 * 255 * 128  # both signs, all but the last exponent: zeros, subnormals
    assert same_bits(fp8.fake_quantize(values, fmt), by_torch(values, fmt))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@settings(max_examples=300, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_any_finite_float32(fmt: fp8.Fp8Format, values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    assert same_bits(fp8.fake_quantize(tensor, fmt), by_torch(tensor, fmt))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_ties_and_their_neighbours(fmt: fp8.Fp8Format) -> None:
    codes = torch.arange(128, dtype=torch.uint8).view(fmt.dtype).to(torch.float32)
    grid = codes[codes.isfinite()]
    middle = (grid[1:] + grid[:-1]) / 2
    around = [torch.nextafter(middle, torch.tensor(end)) for end in (0.0, torch.inf)]
    values = torch.cat([grid, middle, *around, grid[-1:] * 1.01, grid[-1:] * 2])
    values = torch.cat([values, -values])
    assert same_bits(fp8.fake_quantize(values, fmt), by_torch(values, fmt))


def test_subnormals_and_signed_zeros() -> None:
    step = 2.0**-9
    values = torch.tensor([0.0, -0.0, step / 2, -step / 2, step * 0.51, -step * 0.51, step * 1.5, 1e-45, -1e-45])
    expected = torch.tensor([0.0, -0.0, 0.0, -0.0, step, -step, 2 * step, 0.0, -0.0])
    assert same_bits(fp8.fake_quantize(values), expected)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_grid_values_and_their_products_are_exact_in_wider_types(fmt: fp8.Fp8Format) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(fmt.dtype).to(torch.float32)
    grid = codes[codes.isfinite()]
    assert torch.equal(grid.to(torch.bfloat16).to(torch.float32), grid)
    assert torch.equal(fp8.fake_quantize(grid, fmt), grid)
    products = grid.double().outer(grid.double())
    assert torch.equal(products.to(torch.float32).double(), products)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(2.0**-16, 1024.0, width=32),
    spread=st.floats(1e-3, 100),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16]),
)
def test_static_quantization(scale: float, spread: float, seed: int, dtype: torch.dtype) -> None:
    values = (torch.randn(5, 48, generator=torch.Generator().manual_seed(seed)) * spread * scale * 100).to(dtype)
    inverse = torch.tensor([[scale]], dtype=torch.float32).reciprocal()
    expected = by_torch(values.to(torch.float32) * inverse, fp8.E4M3)
    before = values.clone()
    assert torch.equal(fp8.quantize_static(values, inverse), expected)  # equal but for signs of zeros
    assert torch.equal(values, before)


@settings(max_examples=60, deadline=None)
@given(spread=st.floats(1e-8, 1e4), seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_dynamic_quantization(spread: float, seed: int, dtype: torch.dtype) -> None:
    values = (torch.randn(7, 48, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)
    values[3] = 0
    grid, scale = fp8.quantize_dynamic(values)
    wide = values.to(torch.float32)
    expected_scale = (wide.abs().amax(-1, keepdim=True) / 448).clamp(min=1 / (448 * 512))
    assert torch.equal(scale, expected_scale)
    assert torch.equal(grid, by_torch(wide / scale, fp8.E4M3))
    assert grid.abs().max() <= 448
