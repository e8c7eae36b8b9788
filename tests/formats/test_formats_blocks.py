"""llama.cpp's block formats: their sizes, and which tensor of a mixture has which."""

import pytest

from pipeline.formats.blocks import BLOCKS, q4_k_m, q8_0
from pipeline.formats.schemes import SCHEMES


def more_bits(name: str, layers: int) -> list[int]:
    """The layers whose tensor has more bits than the others."""
    kinds = [q4_k_m(f"model.layers.{layer}.{name}.weight", layers) for layer in range(layers)]
    assert set(kinds) <= {"Q4_K", "Q6_K"}
    return [layer for layer, kind in enumerate(kinds) if kind == "Q6_K"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # By hand, from `use_more_bits` of llama.cpp's llama-quant.cpp: i < n/8 || i >= 7*n/8 || (i - n/8) % 3 == 2.
        (4, [2, 3]),
        (8, [0, 3, 6, 7]),
        (24, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]),
        (28, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]),
    ],
)
@pytest.mark.parametrize("name", ["self_attn.v_proj", "mlp.down_proj"])
def test_some_layers_values_and_down_projections_have_more_bits(name: str, layers: int, expected: list[int]) -> None:
    assert more_bits(name, layers) == expected


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"])
def test_other_projections_have_four_bits_in_every_layer(name: str) -> None:
    assert more_bits(name, 24) == []


def test_the_output_layer_has_six_bits_and_embeddings_have_four() -> None:
    assert q4_k_m("lm_head.weight", 24) == "Q6_K"
    assert q4_k_m("model.embed_tokens.weight", 24) == "Q4_K"
    assert {q8_0(name, 24) for name in ("lm_head.weight", "model.layers.0.mlp.up_proj.weight")} == {"Q8_0"}


def test_bits_and_divisors_are_those_of_the_blocks() -> None:
    """A mixture is named by the block of most of its weights."""
    for scheme, kind in (("Q4_K_M", "Q4_K"), ("Q8_0", "Q8_0")):
        block = BLOCKS[kind]
        assert SCHEMES[scheme].bits == 8 * block.bytes / block.weights
        assert SCHEMES[scheme].divisor == block.weights
    assert 8 * BLOCKS["Q6_K"].bytes / BLOCKS["Q6_K"].weights == 6.5625


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_is_as_large_as_the_gguf_package_says(kind: str) -> None:
    constants = pytest.importorskip("gguf.constants")
    own = constants.GGML_QUANT_SIZES[constants.GGMLQuantizationType[kind]]
    assert own == (BLOCKS[kind].weights, BLOCKS[kind].bytes)
