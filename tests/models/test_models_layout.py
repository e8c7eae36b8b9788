"""What a scheme stores, predicted: each format is as heavy as its bits and scales say."""

import pytest

from pipeline.config import Variant
from pipeline.models.layout import bytes_of, stored
from pipeline.stages.report.collect.footprints import of_config, settings_of

SHAPE = {
    "model_type": "llama",
    "num_hidden_layers": 8,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 1000,
}
WEIGHT = {"model.layers.0.mlp.up_proj.weight": ("BF16", (2048, 1024))}


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ("bf16", 16),
        ("fp8_static", 8),
        ("int8_dynamic", 8 + 16 / 1024),
        ("w4a16", 4 + 16 / 128),
        ("awq", 4 + 20 / 128),
        ("gptq_int8", 8 + 24 / 128),
        ("bnb_nf4", 4 + 32 / 64),
        ("gguf_q4_k_m", 4.5),
        ("gguf_q8_0", 8.5),
        ("nvfp4", 4 + 8 / 16),
        ("mxfp4", 4 + 8 / 32),
    ],
)
def test_a_weight_takes_its_bits_and_its_share_of_scales(quant: str, bits: float) -> None:
    found = bytes_of(stored(WEIGHT, SHAPE, settings_of(quant)))
    assert 8 * sum(found.values()) / (2048 * 1024) == pytest.approx(bits, rel=0.002)


def test_the_output_layer_stays_in_bf16_but_for_llama_cpp() -> None:
    original = {"lm_head.weight": ("BF16", (1000, 1024))}
    assert stored(original, SHAPE, settings_of("w4a16")) == original
    assert stored(original, SHAPE, settings_of("gguf_q4_k_m"))["lm_head.weight"][0] == "Q6_K"


def test_a_mixture_of_experts_has_no_footprint() -> None:
    assert "mixture of experts" in of_config({**SHAPE, "num_experts": 4}, Variant.parse("w4a16")).reason
