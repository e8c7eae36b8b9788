"""Packed weights mean the same here as to those who packed them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy
from compressed_tensors.quantization.lifecycle.forward import dequantize as by_compressed_tensors

from pipeline.errors import InputError, UnknownFormat
from pipeline.formats import unpack_gguf
from pipeline.formats.layouts import FP8_BLOCKS, dequantize
from pipeline.formats.schemes import SCHEMES

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


def test_a_gguf_files_tensors_lie_one_after_another_and_end_where_it_does(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path, rows = tmp_path / "model.gguf", 4
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, np.zeros((rows, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = unpack_gguf.headers(path)
    assert set(found) == {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"}
    (first, middle), (second, end) = sorted(item["data_offsets"] for item in found.values())
    assert (middle - first, end - second) == (4 * rows * 64, 4 * rows * 64)
    assert (middle, end) == (second, path.stat().st_size)
    unpack_gguf.check(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        unpack_gguf.check(path)


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
