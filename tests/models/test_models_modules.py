"""The list of a decoder's Linears: by names and shapes of real and published checkpoints."""

import pytest
import torch
from support import families

from pipeline.errors import ConfigError
from pipeline.hardware.probe import probe
from pipeline.models.architecture import read_config
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import load_model
from pipeline.models.modules import (
    SMALL,
    attentions,
    check_ignore,
    decoder_linears,
    fusion_group,
    is_decoder_linear,
    kept_matrices,
)

LAYER = "model.layers.3"
CONFIG = {"num_hidden_layers": 4}


def linears(*names: str, shape: tuple[int, ...] = (64, 64)) -> list[str]:
    return list(decoder_linears({f"{name}.weight": ("BF16", shape) for name in names}, CONFIG))


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.self_attn.q_proj",
        f"{LAYER}.self_attn.qkv_proj",  # Phi-3
        f"{LAYER}.mlp.experts.7.gate_proj",
        f"{LAYER}.block_sparse_moe.experts.0.w1",  # Mixtral
        f"{LAYER}.linear_attn.in_proj_qkv",  # Qwen3.5
        f"{LAYER}.mlp.c_fc",  # Starcoder2
        "gpt_neox.layers.3.attention.query_key_value",
        "transformer.h.3.mlp.dense_h_to_4h",
        "model.language_model.layers.3.mlp.down_proj",
        "language_model.model.layers.3.mlp.down_proj",
    ],
)
def test_linears_of_decoder_layers_are_found_whatever_their_names(name: str) -> None:
    assert linears(name) == [name]
    assert is_decoder_linear(name, 4)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head",
        "model.embed_tokens",
        f"{LAYER}.mlp.gate",  # router
        f"{LAYER}.block_sparse_moe.router.layer",
        f"{LAYER}.mlp.shared_expert_gate",
        f"{LAYER}.block_sparse_moe.gate",
        f"{LAYER}.linear_attn.in_proj_a",
        f"{LAYER}.per_layer_input_gate",
        f"{LAYER}.altup.prediction_coefs",
        f"{LAYER}.input_layernorm",
        "model.vision_tower.encoder.layers.3.mlp.fc1",
        "visual.blocks.3.attn.qkv",
        "model.visual.blocks.3.mlp.linear_fc1",
        "model.multi_modal_projector.layers.3.linear",
        "mtp.layers.0.mlp.up_proj",
        "model.layers.4.mlp.up_proj",  # drafts tokens: the decoder has four
    ],
)
def test_routers_towers_drafts_and_small_gates_stay_in_bf16(name: str) -> None:
    assert linears(name) == []
    assert not is_decoder_linear(name, 4)


def test_vectors_convolutions_and_biases_are_no_linears() -> None:
    assert linears(f"{LAYER}.linear_attn.conv1d", shape=(64, 1, 4)) == []
    assert linears(f"{LAYER}.self_attn.sinks", shape=(64,)) == []
    assert list(decoder_linears({f"{LAYER}.mlp.up_proj.bias": ("BF16", (64, 64))}, CONFIG)) == []


def test_routers_are_listed_since_vllm_loads_some_as_linears() -> None:
    tensors = {f"{LAYER}.mlp.{name}.weight": ("BF16", (8, 64)) for name in ("gate", "up_proj")}
    assert kept_matrices(tensors, CONFIG) == [f"{LAYER}.mlp.gate"]


def test_what_vllm_loads_as_one_has_one_name() -> None:
    assert len({fusion_group(f"{LAYER}.self_attn.{x}_proj") for x in "qkv"}) == 1
    assert fusion_group(f"{LAYER}.mlp.gate_proj") == fusion_group(f"{LAYER}.mlp.up_proj")
    experts = {fusion_group(f"{LAYER}.mlp.experts.{n}.{x}_proj") for n in range(2) for x in ("gate", "up")}
    assert len(experts) == 2
    assert fusion_group(f"{LAYER}.self_attn.o_proj") != fusion_group(f"{LAYER}.self_attn.q_proj")


def test_only_attention_with_keys_has_a_cache() -> None:
    names = ("self_attn.k_proj", "self_attn.q_proj", "mlp.up_proj", "linear_attn.in_proj_qkv")
    assert attentions([f"{LAYER}.{name}.weight" for name in names]) == [f"{LAYER}.self_attn"]
    assert attentions(["visual.layers.3.attn.k_proj.weight"]) == []


# Transformers names the experts of Mixtral otherwise than its checkpoints do.
@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family != "mixtral"])
def test_the_list_is_every_linear_of_the_model_but_router_gates_and_head(family: str, tmp_path) -> None:
    folder = families.write(family, tmp_path / family)
    found = decoder_linears(stored_tensors(folder), read_config(folder))
    model = load_model(folder, probe("cpu"), linear_experts=True)
    every = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    others = {name.rpartition(".")[2] for name in every - set(found)}
    assert others <= {"lm_head", "embed_out", "per_layer_model_projection", "shared_expert_gate", *SMALL}
    assert set(found) <= every
    for name, linear in found.items():
        assert linear.shape == tuple(model.get_submodule(name).weight.shape)
        assert linear.layer == int(name.split(".")[2])


def test_patterns_that_match_nothing_are_refused_with_names_to_choose_from() -> None:
    names = [f"{LAYER}.mlp.down_proj", f"{LAYER}.mlp.up_proj"]
    check_ignore(names, ("lm_head", "re:.*down_proj", names[1]), "w4a16")
    with pytest.raises(ConfigError, match=r"quant\.ignore of w4a16: down_proj, re:nosuch match") as error:
        check_ignore(names, ("lm_head", "down_proj", "re:nosuch"), "w4a16")
    assert names[0] in str(error.value)
    assert "re:.*down_proj" in str(error.value)


@pytest.mark.parametrize("patterns", [(), ("re:.*down_proj",)])
def test_the_output_layer_must_be_ignored(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"lm_head would be quantized.*\[lm_head"):
        check_ignore([f"{LAYER}.mlp.down_proj"], patterns, "w4a16")
