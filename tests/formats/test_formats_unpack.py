"""Packed weights mean the same here as to those who packed them."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from compressed_tensors.quantization.lifecycle.forward import dequantize as by_compressed_tensors

from pipeline.errors import UnknownFormat
from pipeline.formats.layouts import FP8_BLOCKS, dequantize
from pipeline.formats.schemes import SCHEMES
from pipeline.formats.unpack import unpack

ROWS, COLUMNS, GROUP = 64, 96, 32


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def integers(bits: int, *shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [GROUP, None])
def test_compressed_tensors_packed(bits: int, symmetric: bool, group: int | None, generator: torch.Generator) -> None:
    half, groups = 2 ** (bits - 1), COLUMNS // group if group else 1
    stored = (integers(bits, ROWS, COLUMNS, generator=generator) - half).to(torch.int8)
    zero = (integers(bits, ROWS, groups, generator=generator) - half).to(torch.int8)
    scale = torch.rand(ROWS, groups, generator=generator) + 0.01
    strategy = QuantizationStrategy.GROUP if group else QuantizationStrategy.CHANNEL
    args = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group, symmetric=symmetric)
    expected = by_compressed_tensors(stored, scale, None if symmetric else zero, args=args, dtype=torch.float32)
    tensors = {
        "weight_packed": pack_to_int32(stored, bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([ROWS, COLUMNS]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0)
    assert torch.equal(dequantize("pack-quantized", tensors, bits), expected)


def test_an_order_that_was_not_written_is_none(generator: torch.Generator) -> None:
    """compressed-tensors fills `weight_g_idx` with -1 until groups are reordered."""
    stored = (integers(4, ROWS, COLUMNS, generator=generator) - 8).to(torch.int8)
    tensors = {
        "weight_packed": pack_to_int32(stored, 4),
        "weight_scale": torch.rand(ROWS, COLUMNS // GROUP, generator=generator) + 0.01,
        "weight_shape": torch.tensor([ROWS, COLUMNS]),
    }
    plain = dequantize("pack-quantized", tensors, 4)
    unwritten = torch.full((COLUMNS,), -1, dtype=torch.int32)
    assert torch.equal(dequantize("pack-quantized", {**tensors, "weight_g_idx": unwritten}, 4), plain)
    in_order = torch.arange(COLUMNS, dtype=torch.int32) // GROUP
    assert torch.equal(dequantize("pack-quantized", {**tensors, "weight_g_idx": in_order}, 4), plain)
    reversed_groups = dequantize("pack-quantized", {**tensors, "weight_g_idx": in_order.flip(0)}, 4)
    assert torch.equal(reversed_groups, stored.float() * tensors["weight_scale"][:, in_order.flip(0)])


@pytest.mark.parametrize(("kind", "dtype"), [("int-quantized", torch.int8), ("float-quantized", torch.float8_e4m3fn)])
@pytest.mark.parametrize("scales", [1, ROWS])
def test_eight_bits_as_they_are(kind, dtype: torch.dtype, scales: int, generator: torch.Generator) -> None:
    stored = (torch.rand(ROWS, COLUMNS, generator=generator) * 200 - 100).to(dtype)
    scale = torch.rand(scales, 1, generator=generator)
    expected = stored.float() * scale
    tensors = {"weight": stored, "weight_scale": scale if scales > 1 else scale[0]}
    assert torch.equal(dequantize(kind, tensors), expected)


@pytest.mark.parametrize("rows", [256, 192, 64])
def test_eight_bits_in_square_blocks(rows: int, generator: torch.Generator) -> None:
    """compressed-tensors pads the last band of blocks; what is stored ends with the weight."""
    weight = torch.randn(rows, 256, generator=generator)
    args = QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[128, 128])
    scale = torch.rand(-(-rows // 128), 2, generator=generator) + 0.01
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -rows % 128)).to(torch.float8_e4m3fn)
    expected = by_compressed_tensors(padded, scale, args=args, dtype=torch.float32)[:rows]
    tensors = {"weight": padded[:rows], "weight_scale": scale}
    assert torch.equal(dequantize("float-quantized", tensors), expected)


def test_eight_bits_in_groups_with_powers_of_two(generator: torch.Generator) -> None:
    stored = (torch.rand(ROWS, COLUMNS, generator=generator) * 200 - 100).to(torch.float8_e4m3fn)
    codes = torch.randint(100, 140, (ROWS, COLUMNS // GROUP), generator=generator, dtype=torch.uint8)
    expected = stored.float() * torch.exp2(codes.float() - 127).repeat_interleave(GROUP, dim=1)
    assert torch.equal(dequantize("mxfp8-quantized", {"weight": stored, "weight_scale": codes}), expected)


def test_awq_as_autoawq_unpacks(generator: torch.Generator) -> None:
    packing = pytest.importorskip("awq.utils.packing_utils")
    groups = COLUMNS // GROUP
    random = torch.randint(-(2**31), 2**31 - 1, (COLUMNS + groups, ROWS // 8), generator=generator)
    qweight, qzeros = random.to(torch.int32).split([COLUMNS, groups])
    scales = torch.rand(groups, ROWS, generator=generator).half()
    expected = packing.dequantize_gemm(qweight, qzeros, scales.float(), 4, GROUP).t()
    assert torch.equal(dequantize("awq", {"qweight": qweight, "qzeros": qzeros, "scales": scales}), expected)


def test_awq_as_autoawq_packs(generator: torch.Generator) -> None:
    gemm = pytest.importorskip("awq.modules.linear.gemm")
    stored = integers(4, ROWS, COLUMNS, generator=generator)
    zeros = integers(4, COLUMNS // GROUP, ROWS, generator=generator)
    scales = torch.rand(COLUMNS // GROUP, ROWS, generator=generator).half() + 0.5
    spread = [each.float().repeat_interleave(GROUP, dim=0).t() for each in (zeros, scales)]
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = (stored - spread[0]) * spread[1]
    packed = gemm.WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scales.float(), zeros=zeros.float())
    tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    assert torch.equal(dequantize("awq", tensors), linear.weight.data)


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_as_gptqmodel_unpacks(bits: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    torch_linear = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch")
    model = pytest.importorskip("gptqmodel.utils.model")
    linear = torch_linear.TorchLinear(
        bits=bits, group_size=GROUP, sym=False, desc_act=False, in_features=COLUMNS, out_features=ROWS, bias=False
    )
    random = torch.randint(-(2**31), 2**31 - 1, (ROWS * COLUMNS,), generator=generator).to(torch.int32)
    linear.qweight.copy_(random[: linear.qweight.numel()].reshape(linear.qweight.shape))
    # As symmetric or not: any zero point but that whose successor does not fit.
    zeros = integers(bits, COLUMNS // GROUP, ROWS, generator=generator).clamp_max(2**bits - 2)
    shifts = torch.arange(0, 32, bits)
    packed = (zeros.long().reshape(zeros.shape[0], -1, 32 // bits) << shifts).sum(-1)
    linear.qzeros.copy_(packed.to(torch.int32))
    linear.scales.copy_(torch.rand(linear.scales.shape, generator=generator) + 0.01)
    stored = {name: getattr(linear, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
    model.convert_gptq_v1_to_v2_format_module(linear, bits, torch.int32)
    assert not torch.equal(linear.qzeros, stored["qzeros"])
    linear.post_init()
    expected = linear.dequantize_weight().t()
    ours = dequantize("gptq", stored, bits)
    assert torch.allclose(ours, expected.float(), rtol=2e-3, atol=1e-3)  # theirs is multiplied in float16
    assert torch.equal(ours, dequantize("gptq_v2", {**stored, "qzeros": linear.qzeros}, bits))
    without_order = {name: tensor for name, tensor in stored.items() if name != "g_idx"}
    assert torch.equal(dequantize("gptq", without_order, bits), ours)


def test_gptq_with_groups_in_another_order(generator: torch.Generator) -> None:
    order = torch.randperm(COLUMNS, generator=generator)
    tensors = {
        "qweight": integers(31, COLUMNS // 8, ROWS, generator=generator),
        "qzeros": integers(31, COLUMNS // GROUP, ROWS // 8, generator=generator),
        "scales": torch.rand(COLUMNS // GROUP, ROWS, generator=generator).half(),
    }
    zero = dequantize("gptq", {**tensors, "qweight": torch.zeros_like(tensors["qweight"])})
    shuffled = {**tensors, "qweight": torch.zeros_like(tensors["qweight"]), "g_idx": order // GROUP}
    assert torch.equal(dequantize("gptq", shuffled), zero[:, (order // GROUP) * GROUP])


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UnknownFormat, match="marlin"):
        dequantize("marlin", {})  # type: ignore[arg-type]


def test_deepseeks_blocks_are_multiplied_by_their_inverse_scales(generator: torch.Generator) -> None:
    shape, block = (200, 256), 128
    packing = SCHEMES["FP8_BLOCK"].packing(None)
    fields = FP8_BLOCKS.fields(shape, packing)
    assert fields["weight_scale_inv"] == ("BF16", (2, 2))
    stored = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 2, generator=generator) + 0.5
    found = dequantize("fp8", {"weight": stored, "weight_scale_inv": scale})
    spread = scale.repeat_interleave(block, 0)[:200].repeat_interleave(block, 1)
    assert torch.equal(found, stored.float() * spread)


def int32(*words: int) -> list[int]:
    """Words of 32 bits as signed integers."""
    return [word - 2**32 if word >= 2**31 else word for word in words]


# Eight integers of 4 bits, the first in the lowest bits.
RISING, FALLING = 0x76543210, 0x89ABCDEF


def test_integers_are_unpacked_from_the_lowest_bits_on_along_either_side() -> None:
    packed = torch.tensor([int32(RISING, FALLING)], dtype=torch.int32)
    expected = [[*range(8), *range(15, 7, -1)]]
    assert unpack(packed, 4, 1).tolist() == expected
    assert unpack(packed.t(), 4, 0).t().tolist() == expected
    assert unpack(torch.tensor([int32(0xFF800140)], dtype=torch.int32), 8, 1).tolist() == [[64, 1, 128, 255]]


@pytest.mark.parametrize("flat", [False, True])
def test_a_scale_for_each_channel_may_be_a_column_or_a_list(flat: bool) -> None:
    scale = torch.tensor([[2.0], [0.5]])
    scale = scale.flatten() if flat else scale
    tensors = {
        "weight_packed": torch.tensor([int32(RISING), int32(FALLING)], dtype=torch.int32),
        "weight_scale": scale,
        "weight_shape": torch.tensor([2, 7]),
    }
    # The eighth integer of each row fills the word up.
    expected = [[-16, -14, -12, -10, -8, -6, -4], [3.5, 3, 2.5, 2, 1.5, 1, 0.5]]
    assert dequantize("pack-quantized", tensors, 4).tolist() == expected
    weight = torch.tensor([[100, -3], [7, 8]], dtype=torch.int8)
    assert dequantize("int-quantized", {"weight": weight, "weight_scale": scale}).tolist() == [[200, -6], [3.5, 4]]


def test_zero_points_of_groups_are_packed_along_the_outputs() -> None:
    tensors = {
        "weight_packed": torch.tensor([int32(RISING), int32(FALLING)], dtype=torch.int32),
        "weight_scale": torch.tensor([[1.0, 10.0], [2.0, 0.5]]),
        "weight_shape": torch.tensor([2, 8]),
        # Columns are groups: zero points 1 and 2 of the first, 4 and 8 of the second.
        "weight_zero_point": torch.tensor([int32(0x21, 0x84)], dtype=torch.int32),
    }
    first = [-1, 0, 1, 2, 0, 10, 20, 30]
    second = [26, 24, 22, 20, 1.5, 1, 0.5, 0]
    assert dequantize("pack-quantized", tensors, 4).tolist() == [first, second]
    # In another order of the inputs each is of the group that it names.
    swapped = tensors | {"weight_g_idx": torch.tensor([1, 1, 1, 1, 0, 0, 0, 0], dtype=torch.int32)}
    assert dequantize("pack-quantized", swapped, 4)[0].tolist() == [-40, -30, -20, -10, 3, 4, 5, 6]


def test_square_blocks_and_bands_that_are_cut_off() -> None:
    weight = torch.ones(3, 4)
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]
    assert dequantize("float-quantized", {"weight": weight, "weight_scale": scale}).tolist() == expected
    assert dequantize("fp8", {"weight": weight, "weight_scale_inv": scale}).tolist() == expected
    # As many bands as rows: a scale for each group of one channel.
    rows = {"weight": torch.ones(2, 4), "weight_scale": scale}
    assert dequantize("float-quantized", rows).tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]


def test_four_bit_floats_are_two_a_byte_the_first_in_the_low_bits() -> None:
    """E2M1 of codes 0 to 7, and with the sign above; NVFP4 divides the blocks' scales, MXFP4 has powers of two."""
    codes = torch.tensor([[0x10, 0x32, 0x54, 0x76], [0x98, 0xBA, 0xDC, 0xFE]], dtype=torch.uint8)
    numbers = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    scale = torch.tensor([[2.0, 4.0], [1.0, 8.0]]).to(torch.float8_e4m3fn)
    nvfp4 = {"weight_packed": codes, "weight_scale": scale, "weight_global_scale": torch.tensor([4.0])}
    first = [number / 2 for number in numbers[:4]] + numbers[4:]
    second = [-number / 4 for number in numbers[:4]] + [-2 * number for number in numbers[4:]]
    assert dequantize("nvfp4-pack-quantized", nvfp4).tolist() == [first, second]
    mxfp4 = {"weight_packed": codes, "weight_scale": torch.tensor([[126, 127], [125, 128]], dtype=torch.uint8)}
    assert dequantize("mxfp4-pack-quantized", mxfp4).tolist() == [first, second]


def test_awqs_order_is_that_of_its_kernels_and_of_four_bits_alone() -> None:
    """Outputs 0 to 7 lie at 0, 4, 1, 5, 2, 6, 3, 7 of a word."""
    word = sum(value << 4 * place for place, value in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    tensors = {
        "qweight": torch.tensor([int32(word)] * 2, dtype=torch.int32),
        "qzeros": torch.tensor([int32(0x11111111)], dtype=torch.int32),
        "scales": torch.full((1, 8), 2.0).half(),
    }
    assert dequantize("awq", tensors).tolist() == [[2 * value - 2] * 2 for value in range(8)]
    with pytest.raises(ValueError, match="4-bit integers, not of 8"):
        dequantize("awq", tensors, 8)


@pytest.mark.parametrize(("layout", "zero"), [("gptq", 4), ("gptq_v2", 3)])
def test_gptqs_zero_points_are_stored_one_too_small_unless_the_format_is_the_second(layout: str, zero: int) -> None:
    tensors = {
        "qweight": torch.tensor([int32(RISING) * 8], dtype=torch.int32),
        "qzeros": torch.tensor([int32(0x33333333)] * 2, dtype=torch.int32),
        "scales": torch.tensor([[1.0] * 8, [10.0] * 8]).half(),
    }
    expected = [value - zero for value in range(4)] + [10 * (value - zero) for value in range(4, 8)]
    assert dequantize(layout, tensors).tolist() == [expected] * 8
    order = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0], dtype=torch.int32)
    expected = [10 * (value - zero) for value in range(4)] + [value - zero for value in range(4, 8)]
    assert dequantize(layout, tensors | {"g_idx": order}).tolist() == [expected] * 8


def test_a_gptq_zero_point_of_zero_is_stored_as_the_largest_integer() -> None:
    tensors = {
        "qweight": torch.tensor([int32(RISING) * 8], dtype=torch.int32),
        "qzeros": torch.tensor([int32(0xFFFFFFFF)], dtype=torch.int32),
        "scales": torch.ones(1, 8).half(),
    }
    assert dequantize("gptq", tensors).tolist() == [list(range(8))] * 8
