"""The tensors of a quantized weight in each layout, counted by hand, and the values that a scale may have."""

import math

import pytest
import torch

from pipeline.formats import layouts
from pipeline.formats.layouts import LAYOUTS, Packing, possible

# A weight of 50 outputs and 96 inputs: neither divides 4, 8 or 32 evenly everywhere.
SHAPE = (50, 96)


@pytest.mark.parametrize(
    ("layout", "packing", "fields"),
    [
        (
            layouts.PACKED,
            Packing(bits=4, group=32, zero_points=True),
            {
                "weight_packed": ("I32", (50, 12)),
                "weight_scale": ("BF16", (50, 3)),
                "weight_shape": ("I64", (2,)),
                # 50 zero points of 4 bits are 6.25 integers of 32.
                "weight_zero_point": ("I32", (7, 3)),
            },
        ),
        (
            layouts.PACKED,
            Packing(bits=8, group=None),
            {
                "weight_packed": ("I32", (50, 24)),
                "weight_scale": ("BF16", (50, 1)),
                "weight_shape": ("I64", (2,)),
            },
        ),
        (layouts.INT8, Packing(bits=8, group=None), {"weight": ("I8", SHAPE), "weight_scale": ("BF16", (50, 1))}),
        (
            layouts.FP8,
            Packing(bits=8, group=None, per_tensor=True, static=True),
            {"weight": ("F8_E4M3", SHAPE), "weight_scale": ("BF16", (1,)), "input_scale": ("BF16", (1,))},
        ),
        (
            layouts.FP8,
            Packing(bits=8, group=None, block=32),
            {"weight": ("F8_E4M3", SHAPE), "weight_scale": ("BF16", (2, 3))},
        ),
        (
            layouts.FP8_BLOCKS,
            Packing(bits=8, group=None, block=64),
            {"weight": ("F8_E4M3", SHAPE), "weight_scale_inv": ("BF16", (1, 2))},
        ),
        (layouts.MXFP8, Packing(bits=8, group=32), {"weight": ("F8_E4M3", SHAPE), "weight_scale": ("U8", (50, 3))}),
        (
            layouts.NVFP4,
            Packing(bits=4, group=16),
            {
                "weight_packed": ("U8", (50, 48)),
                "weight_scale": ("F8_E4M3", (50, 6)),
                "weight_global_scale": ("F32", (1,)),
                "input_global_scale": ("F32", (1,)),
            },
        ),
        (
            layouts.NVFP4,
            Packing(bits=4, group=16, weights_only=True),
            {
                "weight_packed": ("U8", (50, 48)),
                "weight_scale": ("F8_E4M3", (50, 6)),
                "weight_global_scale": ("F32", (1,)),
            },
        ),
        (
            layouts.MXFP4,
            Packing(bits=4, group=32),
            {"weight_packed": ("U8", (50, 48)), "weight_scale": ("U8", (50, 3))},
        ),
        (
            layouts.BITSANDBYTES,
            Packing(bits=8, group=None),
            {"weight": ("I8", SHAPE), "SCB": ("F32", (50,)), "weight_format": ("U8", ())},
        ),
    ],
)
def test_the_tensors_of_a_weight_are_counted(
    layout: layouts.WeightLayout, packing: Packing, fields: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    assert layout.fields(SHAPE, packing) == fields


@pytest.mark.parametrize("layout", [layouts.AWQ, layouts.GPTQ, layouts.GPTQ_V2])
def test_awq_and_gptq_pack_along_outputs_and_inputs(layout: layouts.WeightLayout) -> None:
    fields = layout.fields((64, 96), Packing(bits=4, group=32))
    assert fields["qzeros"] == ("I32", (3, 8)) and fields["scales"] == ("F16", (3, 64))
    along = (96, 8) if layout is layouts.AWQ else (12, 64)
    assert fields["qweight"] == ("I32", along)
    assert fields.get("g_idx") == (None if layout is layouts.AWQ else ("I32", (96,)))


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_has_blocks_over_the_ends_of_rows(nested: bool) -> None:
    # 4,851 weights: 76 blocks of 64, the last of 51; two of them a byte.
    fields = layouts.BITSANDBYTES.fields((49, 99), Packing(bits=4, group=64, nested=nested))
    state = fields.pop("weight.quant_state.bitsandbytes__nf4")
    text = '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [49, 99]}'
    offset = ', "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0123456789012345'
    assert state == ("U8", (len(text) + nested * len(offset),))
    expected = {
        "weight": ("U8", (2426, 1)),
        "weight.absmax": ("U8" if nested else "F32", (76,)),
        "weight.quant_map": ("F32", (16,)),
    }
    if nested:
        expected |= {"weight.nested_absmax": ("F32", (1,)), "weight.nested_quant_map": ("F32", (256,))}
    assert fields == expected
    larger = layouts.BITSANDBYTES.fields((257, 64), Packing(bits=4, group=None, nested=True))
    assert larger["weight.absmax"] == ("U8", (257,)) and larger["weight.nested_absmax"] == ("F32", (2,))
    blocks = layouts.BITSANDBYTES.fields((49, 99), Packing(bits=4, group=128, nested=nested))
    assert blocks["weight.absmax"][1] == (38,)
    # The block size has a digit more.
    assert blocks["weight.quant_state.bitsandbytes__nf4"] == ("U8", (state[1][0] + 1,))


def test_only_what_is_asked_for_is_stored_beside_a_weight() -> None:
    plain = Packing(bits=4, group=32)
    assert plain == Packing(4, 32, False, False, None, False, False, False)
    assert "input_global_scale" in layouts.NVFP4.fields(SHAPE, plain)
    assert "weight_zero_point" not in layouts.PACKED.fields(SHAPE, plain)
    assert [Packing(bits=bits, group=None).integers for bits in (4, 8)] == [8, 4]


@pytest.mark.parametrize(
    ("kind", "permitted"),
    [
        ("positive", [False, False, False, True]),
        ("zero or more", [False, False, True, True]),
        ("not zero", [True, True, False, True]),
    ],
)
def test_a_scale_has_a_sign_that_its_format_permits(kind: layouts.Scales, permitted: list[bool]) -> None:
    assert possible(kind, torch.tensor([-2.0, -0.25, 0.0, 1e-6])).tolist() == permitted
    assert not possible(kind, torch.tensor([math.inf, -math.inf, math.nan])).any()


def test_every_code_but_one_is_a_power_of_two() -> None:
    assert possible("codes", torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)).tolist() == [True] * 4 + [False]


def test_a_layout_is_found_by_its_own_name_and_marks() -> None:
    marks = {name: layout.marks for name, layout in LAYOUTS.items()}
    assert marks == {
        **dict.fromkeys(("pack-quantized", "int-quantized", "float-quantized", "mxfp8-quantized"), ("weight_scale",)),
        **dict.fromkeys(("nvfp4-pack-quantized", "mxfp4-pack-quantized"), ("weight_scale",)),
        "fp8": ("weight_scale_inv",),
        **dict.fromkeys(("awq", "gptq", "gptq_v2"), ("qweight",)),
        "bitsandbytes": ("weight.quant_state.bitsandbytes__nf4", "SCB"),
    }
