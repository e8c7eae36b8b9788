"""The footprint of a checkpoint whose layers are of several formats, by hand."""

from __future__ import annotations

import pytest

from pipeline.compare.roofline.footprint import footprint

CONFIG = {
    **{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 1000},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"
WEIGHTS = {
    **{"model.embed_tokens": 64_000, "lm_head": 64_000},
    **{f"{ATTENTION}.{name}_proj": number for name, number in (("q", 4096), ("k", 2048), ("v", 2048), ("o", 4096))},
    **{f"{MLP}.{name}_proj": 8192 for name in ("gate", "up", "down")},
}
SIZES = {f"{module}.weight": 2 * number for module, number in WEIGHTS.items()}
UNTOUCHED: dict[str, str | None] = dict.fromkeys(WEIGHTS)


def test_products_are_counted_by_the_type_that_they_are_computed_in() -> None:
    """INT8 for the MLP, FP8 for the queries; 4-bit weights are multiplied in BF16, as what is not rounded."""
    mixed = {f"{MLP}.{name}_proj": "W8A8" for name in ("gate", "up", "down")}
    mixed |= {f"{ATTENTION}.q_proj": "FP8_DYNAMIC", f"{ATTENTION}.o_proj": "W4A16"}
    found = footprint(WEIGHTS, UNTOUCHED | mixed, SIZES, CONFIG, "auto")
    assert (found.activations, found.products) == ("int8", 3 * 8192)
    assert found.other_products == {"fp8": 4096} and found.bf16_products == 2 * 2048 + 4096
    assert (found.head_products, found.attention_products) == (64_000, 2 * 4 * 16)
    # All but the embedding is read in each step.
    assert found.weight_bytes == 2 * (2 * 64_000 + 12_288 + 24_576)
    assert found.step_bytes == found.weight_bytes - 128_000
    # Keys and values of two heads of 16 numbers.
    assert found.kv_bytes_per_token == 2 * 2 * 16 * 2 and found.kv_heads == 2
    assert (found.context, found.hidden, found.intermediate, found.vocabulary) == (512, 64, 128, 1000)


def test_without_a_format_all_products_are_in_bf16() -> None:
    for schemes in (UNTOUCHED, UNTOUCHED | {f"{ATTENTION}.q_proj": "W4A16"}):
        found = footprint(WEIGHTS, schemes, SIZES, CONFIG, "fp8_e4m3")
        assert (found.activations, found.products, found.bf16_products) == ("bf16", 12_288 + 24_576, 0)
        assert found.other_products == {} and (found.experts, found.chosen, found.expert_bytes) == (0, 0, 0)
        assert found.kv_bytes_per_token == 2 * 2 * 16


def test_one_format_of_some_layers_leaves_the_others_in_bf16() -> None:
    found = footprint(WEIGHTS, UNTOUCHED | {f"{ATTENTION}.q_proj": "FP8_DYNAMIC"}, SIZES, CONFIG, "auto")
    assert (found.activations, found.products) == ("fp8", 4096)
    assert found.bf16_products == pytest.approx(12_288 + 24_576 - 4096) and found.other_products == {}
