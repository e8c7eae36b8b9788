"""Work of a token: that of the model's own modules as they run, and the published active parameters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support import families
from support.mixtures import QWEN3_30B_A3B, tensors_of

from pipeline.config import Variant
from pipeline.errors import InputError
from pipeline.hardware.probe import probe
from pipeline.models.architecture import read_config
from pipeline.models.headers import stored_tensors
from pipeline.models.layout import bytes_of, quantized, stored
from pipeline.models.loading import load_model
from pipeline.models.work import Work, weights_of, work_of
from pipeline.stages.report.collect.footprints import of_checkpoint, settings_of

TOKENS = 24
# Experts, shared experts, linear attention, fused matrices, MLPs without a gate.
KINDS = (
    *("llama", "phi3", "glm4", "starcoder2", "gpt_neox"),
    *("qwen3_moe", "mixtral", "qwen2_moe", "glm4_moe", "qwen3_next", "qwen3_5"),
)


def work_of_folder(folder: Path) -> Work:
    tensors, config = stored_tensors(folder), read_config(folder)
    return work_of(weights_of(tensors), (), bytes_of(tensors), config)


@pytest.mark.parametrize("family", KINDS)
def test_products_of_a_token_are_those_of_the_modules_that_it_passes(family: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / family)
    model = load_model(folder, probe("cpu"), linear_experts=True)
    passed = 0

    def count(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal passed
        passed += module.weight.numel() * arguments[0].reshape(-1, arguments[0].shape[-1]).shape[0]

    for name, module in model.named_modules():
        is_counted = isinstance(module, torch.nn.Linear) or type(module).__name__.endswith("Router")
        if is_counted and name not in ("lm_head", "embed_out"):
            module.register_forward_pre_hook(count)
    with torch.inference_mode():
        model.get_decoder()(torch.arange(TOKENS)[None], use_cache=False)
    work = work_of_folder(folder)
    # Convolutions of linear attention are depthwise: a few weights for each channel.
    assert work.bf16_products == pytest.approx(passed / TOKENS, rel=0.01)


def cached_numbers(model: torch.nn.Module) -> int:
    """Numbers that a token adds to the KV cache."""
    with torch.inference_mode():
        sizes = []
        for length in (8, 9):
            cache = model(torch.arange(length)[None], use_cache=True).past_key_values
            kept = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
            sizes.append(sum(layer.keys.numel() + layer.values.numel() for layer in kept))
    return sizes[1] - sizes[0]


@pytest.mark.parametrize("family", ["llama", "phi3", "phi3_shared_heads", "starcoder2", "mixtral", "qwen3_5"])
def test_a_token_leaves_in_the_cache_what_the_model_keeps(family: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / "model")
    assert work_of_folder(folder).cached == cached_numbers(load_model(folder, probe("cpu")))


def test_qwen3_30b_a3b_has_the_active_parameters_of_its_card() -> None:
    """30.5 billion, 3.3 billion activated, 128 experts of which 8 are activated (the model card)."""
    tensors = tensors_of(QWEN3_30B_A3B)
    assert round(sum(math.prod(shape) for _, shape in tensors.values()) / 1e9, 1) == 30.5
    work = work_of(weights_of(tensors), (), bytes_of(tensors), QWEN3_30B_A3B)
    embedding = 151936 * 2048
    assert (work.experts, work.chosen) == (128, 8)
    assert 3.3e9 < work.bf16_products + work.head_products + embedding < 3.4e9
    assert work.head_products == embedding
    # A token reads its active weights, but for the embedding's row, in two bytes each; norms are small.
    assert work.step_bytes == pytest.approx(2 * (work.bf16_products + work.head_products), rel=1e-3)
    assert work.expert_bytes == 2 * 48 * 128 * 3 * 2048 * 768
    # 48 layers of 4 heads of 128, keys and values: 96 KiB a token in BF16.
    assert 2 * work.cached == 96 * 1024
    assert work.attention_products == 2 * 48 * 32 * 128


@pytest.mark.parametrize(
    "variant",
    ["bf16", "fp8_static", "int8_dynamic", "w4a16", "awq", "gptq_int4", "gptq_int8", "bnb_nf4", "bnb_int8", "nvfp4"],
)
def test_a_format_stands_for_as_many_weights_as_it_stores(variant: str) -> None:
    small = {**QWEN3_30B_A3B, "num_hidden_layers": 1, "num_experts": 2}
    original, quant = tensors_of(small), settings_of(Variant.parse(variant).quant)
    assert weights_of(stored(original, small, quant), lambda _: quant.whole_bits or 0) == weights_of(original)
    modules = quantized(original, small, quant)
    assert not any(name.endswith("mlp.gate") for name in modules)


def test_experts_in_one_tensor_are_experts() -> None:
    config = {**QWEN3_30B_A3B, "num_hidden_layers": 1}
    apart = tensors_of(config)
    joined = {name: each for name, each in apart.items() if ".experts." not in name}
    joined["model.layers.0.mlp.experts.gate_up_proj"] = ("BF16", (128, 2 * 768, 2048))
    joined["model.layers.0.mlp.experts.down_proj"] = ("BF16", (128, 2048, 768))
    works = [work_of(weights_of(each), (), bytes_of(each), config) for each in (apart, joined)]
    assert works[0] == works[1]


def test_a_step_reads_no_tower_and_no_layer_that_drafts() -> None:
    config = {**QWEN3_30B_A3B, "num_hidden_layers": 1, "num_experts": 2}
    plain = tensors_of(config)
    more = {
        **plain,
        "model.visual.blocks.0.attn.qkv.weight": ("BF16", (64, 64)),
        "model.layers.1.mlp.down_proj.weight": ("BF16", (64, 64)),
        "mtp.layers.0.mlp.down_proj.weight": ("BF16", (64, 64)),
    }
    works = [work_of(weights_of(each), (), bytes_of(each), config) for each in (plain, more)]
    assert works[0] == works[1]


def test_what_the_work_depends_on_must_be_said() -> None:
    tensors = tensors_of({**QWEN3_30B_A3B, "num_hidden_layers": 1, "num_experts": 2})
    config = {name: value for name, value in QWEN3_30B_A3B.items() if name != "num_experts_per_tok"}
    with pytest.raises(InputError, match="how many a token passes"):
        work_of(weights_of(tensors), (), bytes_of(tensors), config)


def test_the_footprint_of_a_mixture_is_that_of_its_active_parameters(tmp_path: Path) -> None:
    folder = families.write("qwen3_moe", tmp_path / "moe")
    found, work = of_checkpoint(folder, None, "auto"), work_of_folder(folder)
    assert (found.experts, found.chosen, found.products) == (4, 2, work.bf16_products)
    assert found.bytes_read(1) == pytest.approx(found.step_bytes)
    unread = bytes_of(stored_tensors(folder))["model.embed_tokens.weight"]
    assert found.bytes_read(1000) == pytest.approx(found.weight_bytes - unread)
