"""A W8A8 layer against the same expression in float64, within the bound its docstring derives."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serve.vllm_plugin import fp8, integers
from pipeline.serve.vllm_plugin.w8a8 import W8A8Linear

BFLOAT16_ROUNDOFF = 2.0**-8
FLOAT32_ROUNDOFF = 2.0**-24


def float32_product(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.to(torch.float32) @ weight.to(torch.float32).t()


def bfloat16_product(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """As oneDNN: operands BF16, products and sum in float32, the sum rounded once."""
    operand = weight.to(torch.bfloat16).to(torch.float32)
    return lambda x: (x.to(torch.bfloat16).to(torch.float32) @ operand.t()).to(torch.bfloat16)


PRODUCTS = {"float32": float32_product, "bfloat16": bfloat16_product}
KINDS = {
    "fp8": (fp8.quantize_static, fp8.quantize_dynamic, fp8.E4M3.max_value),
    "int8": (integers.quantize_static, integers.quantize_dynamic, 127.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", PRODUCTS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    static=st.booleans(),
    per_channel=st.booleans(),
    with_bias=st.booleans(),
    rows=st.integers(1, 5),
)
def test_within_the_derived_bound(
    kind: str, product: str, seed: int, static: bool, per_channel: bool, with_bias: bool, rows: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = 96, 24
    quantize_static, quantize_dynamic, largest = KINDS[kind]
    x = torch.randn(rows, inputs, generator=generator).to(torch.bfloat16)
    float_weight = torch.randn(outputs, inputs, generator=generator)
    weight_scale = float_weight.abs().amax(-1 if per_channel else None, keepdim=True).reshape(-1, 1) / largest
    weight = quantize_static(float_weight, weight_scale.reciprocal())
    input_scale = x.float().abs().max() / largest * 0.9 if static else None  # 0.9: some saturate
    bias = torch.randn(outputs, generator=generator).to(torch.bfloat16) if with_bias else None

    layer = W8A8Linear(PRODUCTS[product](weight), weight_scale, input_scale, quantize_static, quantize_dynamic)
    got = layer(x, bias, torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert got.shape == (rows, outputs)

    if input_scale is not None:
        grid, scale = quantize_static(x, input_scale.reshape(1, 1).reciprocal()), input_scale.reshape(1, 1)
    else:
        grid, scale = quantize_dynamic(x)
    scales = scale.double() * weight_scale.double().reshape(1, -1)
    terms = grid.double().abs() @ weight.double().abs().t() * scales
    scaled = (grid.double() @ weight.double().t()) * scales
    exact = scaled if bias is None else scaled + bias.double()

    # Float32: the sum (at most one rounding a term), two scales, the bias; then BF16 once, and once
    # more for BF16 products, there before the bias. The products themselves are exact.
    float32_error = (inputs + 4) * FLOAT32_ROUNDOFF * (terms + exact.abs())
    extra = BFLOAT16_ROUNDOFF * scaled.abs() if product == "bfloat16" else torch.zeros_like(exact)
    bound = (extra + float32_error) * (1 + BFLOAT16_ROUNDOFF) + BFLOAT16_ROUNDOFF * exact.abs()
    assert bool(((got.double() - exact).abs() <= bound + 1e-30).all())
    if bias is None and product == "bfloat16":
        stated = (2 * BFLOAT16_ROUNDOFF + BFLOAT16_ROUNDOFF**2) * exact.abs() + 2 * float32_error
        assert bool(((got.double() - exact).abs() <= stated + 1e-30).all())


def test_leading_dimensions_are_kept() -> None:
    weight = torch.eye(32)
    layer = W8A8Linear(float32_product(weight), torch.ones(1), torch.ones(1), fp8.quantize_static, fp8.quantize_dynamic)
    x = torch.arange(2 * 3 * 32).reshape(2, 3, 32).remainder(16).to(torch.bfloat16)
    assert torch.equal(layer(x, None, torch.bfloat16), x)
    assert layer(x[:, :0], None, torch.bfloat16).shape == (2, 0, 32)
