"""The demo model's shape: a Qwen3 with every linear width a multiple of 256.

So that group sizes of 32, 64, 128 and 256 divide every weight and each quantization format applies.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.demo_model.tokenizer import END_ID, PAD_ID, VOCAB_SIZE

if TYPE_CHECKING:
    from transformers import Qwen3Config

MAX_LENGTH = 2048  # tokens


@dataclass(frozen=True)
class Shape:
    """Sizes of the network.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layers.
        layers: Number of layers.
        heads: Number of query heads.
        kv_heads: Number of key and value heads.
        head_dim: Width of a head.
        tied: Whether the output shares the input embedding.
        rope_theta: Base of the rotary position encoding.
    """

    hidden: int = 256
    intermediate: int = 768
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    tied: bool = False
    rope_theta: float = 10000.0


def make_config(shape: Shape, vocab_size: int = VOCAB_SIZE) -> "Qwen3Config":
    """Return the transformers configuration of a shape."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )
