"""bitsandbytes' layouts by hand, on a few weights; against the library itself: `tests/stages/quantize/engines`."""

from __future__ import annotations

import json

import torch

from pipeline.formats import unpack_bitsandbytes

# Sixteen numbers in eighths, from -1.
TABLE = torch.arange(16) / 8 - 1


def state(**content: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def tensors(scales: torch.Tensor, **nested: object) -> dict[str, torch.Tensor]:
    """A weight of 3 rows and 4 columns in blocks of 8: the second, of 4, is the last row."""
    return {
        "weight": torch.tensor([0x0F, 0x8C, 0x4A, 0x80, 0xC0, 0x08], dtype=torch.uint8).reshape(-1, 1),
        "weight.absmax": scales,
        "weight.quant_map": TABLE,
        unpack_bitsandbytes.STATE: state(quant_type="nf4", blocksize=8, shape=[3, 4], **nested),
    }


NUMBERS = torch.tensor([[-1, 0.875, 0, 0.5], [-0.5, 0.25, 0, -1], [0.5, -1, -1, 0]])


def test_two_codes_are_in_a_byte_the_first_in_the_high_bits_and_blocks_run_over_rows() -> None:
    found = unpack_bitsandbytes.unpack(tensors(torch.tensor([2.0, 10.0])), 0)
    assert found.dtype == torch.float32
    assert torch.equal(found, NUMBERS * torch.tensor([[2.0], [2.0], [10.0]]))


def test_double_quantization_has_codes_of_scales_around_their_mean() -> None:
    """Scales of 3 + 0.5 * 4 and 3 - 0.25 * 4."""
    stored = tensors(
        torch.tensor([255, 1], dtype=torch.uint8), nested_blocksize=256, nested_dtype="float32", nested_offset=3.0
    )
    table = torch.zeros(256)
    table[[255, 1]] = torch.tensor([0.5, -0.25])
    stored |= {"weight.nested_absmax": torch.tensor([4.0]), "weight.nested_quant_map": table}
    assert torch.equal(unpack_bitsandbytes.unpack(stored, 0), NUMBERS * torch.tensor([[5.0], [5.0], [2.0]]))


def test_scales_of_scales_are_those_of_their_blocks() -> None:
    codes, table = torch.tensor([[0, 1, 2]], dtype=torch.uint8), torch.tensor([1.0, 2.0, 3.0])
    found = unpack_bitsandbytes.dequantize_scales(codes, torch.tensor([10.0, 100.0]), table, 0.5, 2)
    assert found.tolist() == [10.5, 20.5, 300.5]


def test_integers_are_shares_of_the_largest_magnitude_of_their_row() -> None:
    stored = {
        "a.b.weight": torch.tensor([[127, -64], [-127, 0]], dtype=torch.int8),
        "a.b.SCB": torch.tensor([254.0, 0.5]),
        "a.c.weight": torch.tensor([1.0]),
    }
    found = unpack_bitsandbytes.dequantize("a.b", stored)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor([[254.0, -128.0], [-0.5, 0.0]]))
