"""INT8 activations and packed integer weights, the latter against compressed_tensors itself."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from compressed_tensors.quantization.lifecycle.forward import dequantize as reference_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serve.vllm_plugin import integers


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 8]),
    symmetric=st.booleans(),
    groups=st.sampled_from([1, 3]),
    rows=st.sampled_from([16, 32]),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_weights_are_what_compressed_tensors_decompresses(
    bits: int, symmetric: bool, groups: int, rows: int, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns, half = groups * 32, 2 ** (bits - 1)
    stored = torch.randint(-half, half, (rows, columns), generator=generator, dtype=torch.int8)
    scale = (torch.rand(rows, groups, generator=generator) + 0.01).to(dtype)
    zero_point = torch.randint(-half, half, (rows, groups), generator=generator, dtype=torch.int8)

    strategy = QuantizationStrategy.GROUP if groups > 1 else QuantizationStrategy.CHANNEL
    group_size = 32 if groups > 1 else None
    args = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group_size, symmetric=symmetric)
    expected = reference_dequantize(stored, scale, None if symmetric else zero_point, args=args, dtype=dtype)

    quantized = integers.unpack(pack_to_int32(stored, bits), bits, 1)
    assert torch.equal(quantized, stored.to(torch.int32) + half)
    offset: torch.Tensor | int = half
    if not symmetric:
        offset = integers.unpack(pack_to_int32(zero_point, bits, packed_dim=0), bits, 0)[:rows]
    weight = integers.dequantize(quantized, scale, offset)
    assert weight.dtype == dtype
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("dim", [0, 1])
def test_packing_along_either_dimension(dim: int) -> None:
    values = torch.arange(16, dtype=torch.int8).repeat(16, 1) - 8
    values = values if dim == 1 else values.t().contiguous()
    unpacked = integers.unpack(pack_to_int32(values, 4, packed_dim=dim), 4, dim)
    assert torch.equal(unpacked, values.to(torch.int32) + 8)


@settings(max_examples=60, deadline=None)
@given(spread=st.floats(1e-6, 1e4), seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_dynamic_int8(spread: float, seed: int, dtype: torch.dtype) -> None:
    values = (torch.randn(6, 40, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)
    values[2] = 0
    grid, scale = integers.quantize_dynamic(values)
    wide = values.to(torch.float32)
    largest = wide.abs().amax(-1, keepdim=True)
    assert torch.equal(scale, largest / 127)
    factor = torch.div(127.0, largest)  # `127 / largest` would be a reciprocal, rounded twice
    expected = torch.where(largest == 0, 0.0, (wide * factor).round())
    assert torch.equal(grid, expected)
    assert grid.abs().max() <= 127
    assert torch.equal(grid, grid.to(torch.bfloat16).to(torch.float32))


def test_static_int8_saturates_and_rounds_ties_to_even() -> None:
    inverse = torch.tensor([[2.0]])
    values = torch.tensor([[0.25, 0.75, 1.25, -0.25, -0.75, 100.0, -100.0]])
    expected = torch.tensor([[0.0, 2.0, 2.0, 0.0, -2.0, 127.0, -128.0]])
    assert torch.equal(integers.quantize_static(values, inverse), expected)
