"""Initial weights, with attention patterns that the task needs.

A question with options is answered by finding an option again and naming the letter before it.
Heads that start at random take most of an hour's training to discover that; heads that start out
attending to the token a fixed distance back, or to tokens equal to their own, only have to learn
what to do with what they see (compare mimetic initialization, Trockman and Kolter, 2023).

A token's initial embedding is noise plus one vector that all tokens share. A head that reads only
the shared part sees positions and no words; a head that reads only the rest sees words.
"""

from typing import Any

import torch
from torch import Tensor

from tools.demo_model.model import Shape

# Distances, in tokens, that the positional heads start with: for each layer those of the query
# heads of key head 0, and in the first layer also those of key head 1.
OFFSETS = (1, 2, 3, 4)
# Rotary frequencies (the fastest ones) that tell neighbouring positions apart.
POSITION_FREQUENCIES = 6
# Rotary frequencies (radians a token) slow enough to match words across a whole question.
MATCH_FREQUENCY = 0.02


def initialize(model: Any, shape: Shape, embedding_std: float) -> None:
    """Set the initial embeddings and attention patterns; every block starts as the identity.

    Args:
        model: A `Qwen3ForCausalLM`, freshly made.
        shape: Its shape.
        embedding_std: Spread of the embeddings. Large, so that what a token is stays visible in
            the residual stream beside what the layers add.
    """
    with torch.no_grad():
        shared = torch.randint(0, 2, (shape.hidden,)).float() * 2 - 1
        embedding = model.model.embed_tokens.weight
        embedding.normal_().add_(shared).mul_(embedding_std)
        for index, layer in enumerate(model.model.layers):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            _look_back(layer.self_attn, shape, shared, head=0, offsets=OFFSETS[:2])
            if index == 0:
                _look_back(layer.self_attn, shape, shared, head=1, offsets=OFFSETS[2:])
            else:
                _look_for_same(layer.self_attn, shape, shared, head=1)


def _frequencies(shape: Shape) -> Tensor:
    """Return the rotary frequencies, shape [head_dim / 2], fastest first."""
    exponents = torch.arange(0, shape.head_dim, 2) / shape.head_dim
    return shape.rope_theta**-exponents


def _heads(attention: Any, shape: Shape, head: int) -> tuple[Tensor, Tensor]:
    """Return one key head, [head_dim, hidden], and its query heads, [group, head_dim, hidden]."""
    keys = attention.k_proj.weight.view(shape.kv_heads, shape.head_dim, shape.hidden)
    queries = attention.q_proj.weight.view(shape.kv_heads, -1, shape.head_dim, shape.hidden)
    return keys[head], queries[head]


def _look_back(attention: Any, shape: Shape, shared: Tensor, head: int, offsets: tuple[int, ...]) -> None:
    """Make query heads attend to the token a fixed distance back."""
    key, queries = _heads(attention, shape, head)
    frequencies = _frequencies(shape)
    used = torch.arange(shape.head_dim // 2) < POSITION_FREQUENCIES
    direction = shared / shape.hidden**0.5
    # The rotary code turns the pair (i, i + head_dim / 2) as one complex number.
    key.mul_(0.1).add_(torch.outer(torch.cat([used, 0 * used]).float(), direction))
    for query, offset in zip(queries, offsets, strict=False):
        phase = -offset * frequencies
        turned = torch.cat([used * phase.cos(), used * phase.sin()])
        query.mul_(0.1).add_(torch.outer(turned, direction))


def _look_for_same(attention: Any, shape: Shape, shared: Tensor, head: int) -> None:
    """Make query heads attend to tokens equal to their own."""
    key, queries = _heads(attention, shape, head)
    slow = (_frequencies(shape) < MATCH_FREQUENCY).float().repeat(2)
    words = torch.eye(shape.hidden) - torch.outer(shared, shared) / shape.hidden
    key.normal_(std=shape.hidden**-0.5)
    key.copy_(slow[:, None] * (key @ words))
    queries.copy_(key.expand_as(queries))
