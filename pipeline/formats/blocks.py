"""llama.cpp's formats: blocks of weights with their scales inside, mixed in one file by what a tensor is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.formats.grids import Round, asymmetric, grouped, symmetric

# A tensor's name in the BF16 checkpoint, and the number of decoder layers -> a key of `BLOCKS`.
Mixture = Callable[[str, int], str]


@dataclass(frozen=True)
class Block:
    """One of llama.cpp's block formats (ggml-common.h).

    Attributes:
        bytes: of a block.
        weights: in a block.
        round: to nearest, with groups of the block's own.
    """

    bytes: int
    weights: int
    round: Round


BLOCKS: Mapping[str, Block] = {
    # A scale and a minimum for 32 weights, a scale for 16, a scale for 32.
    "Q4_K": Block(144, 256, grouped(asymmetric(4), 32)),
    "Q6_K": Block(210, 256, grouped(symmetric(6), 16)),
    "Q8_0": Block(34, 32, grouped(symmetric(8), 32)),
}


def q8_0(name: str, layers: int) -> str:
    """One format for all."""
    return "Q8_0"


def q4_k_m(name: str, layers: int) -> str:
    """Q6_K for the output layer and, in the first and last eighth and every third layer, for values and `down_proj`."""
    if name == "lm_head.weight":
        return "Q6_K"
    place = re.search(r"\.layers\.(\d+)\.(?:self_attn\.v_proj|mlp\.down_proj)\.", name)
    if place is None:
        return "Q4_K"
    index, eighth = int(place[1]), layers // 8
    more = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
    return "Q6_K" if more else "Q4_K"
