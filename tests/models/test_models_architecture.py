"""A decoder's tensors and costs from its config alone, held against real checkpoints' headers."""

import json
import math

import pytest

from pipeline.demo import CHECKPOINT
from pipeline.errors import InputError
from pipeline.models.architecture import DecoderShape, has_windows, kv_bytes_per_token
from pipeline.models.safetensors import safetensors_header


def test_the_demo_models_tensors_are_those_of_its_file() -> None:
    shape = DecoderShape.of(json.loads((CHECKPOINT / "config.json").read_text()))
    header = safetensors_header(CHECKPOINT / "model.safetensors")
    assert shape.tensors == {name: tuple(item["shape"]) for name, item in header.items()}


def test_qwen3_8b_has_the_parameters_of_its_card(data_dir) -> None:
    """8.2 billion, 6.95 without embeddings (the model card)."""
    shape = DecoderShape.of(json.loads((data_dir / "qwen3" / "config.qwen3-8b.json").read_text()))
    assert round(shape.parameters / 1e9, 1) == 8.2
    assert round(shape.linear_parameters / 1e9, 2) == 6.95
    small = DecoderShape.of(json.loads((data_dir / "qwen3" / "config.qwen3-0.6b.json").read_text()))
    assert small.tied and round(small.parameters / 1e9, 2) == 0.60


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_makes_the_same_tensors(family: str, tied: bool) -> None:
    import torch
    import transformers

    kind = getattr(transformers, family.replace("ForCausalLM", "Config"))
    config = kind(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=128,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = getattr(transformers, family)(config)
    made = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    shape = DecoderShape.of(config.to_dict())
    assert shape.tensors == made
    assert shape.parameters == sum(math.prod(dimensions) for dimensions in made.values())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_experts": 8},
        {"num_attention_heads": 0, "hidden_size": 4},
        {"layer_types": ["linear_attention", "full_attention"]},
    ],
)
def test_what_is_no_dense_decoder_is_refused(config: dict) -> None:
    with pytest.raises(InputError):
        DecoderShape.of(config)


def test_bytes_of_a_token_are_those_of_its_keys_and_values() -> None:
    qwen = {"num_hidden_layers": 36, "num_key_value_heads": 8, "head_dim": 128, "num_attention_heads": 32}
    # Qwen3-8B: 144 KiB in 16 bits.
    assert kv_bytes_per_token(qwen, "auto") == 144 * 1024
    assert kv_bytes_per_token(qwen, "fp8_e4m3") == 72 * 1024
    assert kv_bytes_per_token({"kv_lora_rank": 512, **qwen}, "auto") is None
    # One layer in four has attention.
    hybrid = {**qwen, "layer_types": [*["linear_attention"] * 3, "full_attention"] * 9}
    assert kv_bytes_per_token(hybrid, "auto") == 36 * 1024
    assert kv_bytes_per_token({**qwen, "full_attention_interval": 4}, "auto") == 36 * 1024


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({"sliding_window": None, "use_sliding_window": False}, False),
        ({"sliding_window": 4096, "use_sliding_window": False}, False),
        ({"sliding_window": 4096}, True),
        ({"layer_types": ["full_attention", "full_attention"]}, False),
        ({"layer_types": ["sliding_attention", "full_attention"]}, True),
        ({"text_config": {"layer_types": ["linear_attention"]}}, True),
    ],
)
def test_layers_that_keep_less_than_the_context_are_known(config: dict, windows: bool) -> None:
    assert has_windows(config) == windows
