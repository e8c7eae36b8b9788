"""llama.cpp's formats: blocks of weights with embedded scales, mixed in one file by the role of each tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.formats.grids import Round, asymmetric, grouped, symmetric

# A tensor's name in the BF16 checkpoint, and the number of decoder layers -> a key of `BLOCKS`.
Mixture = Callable[[str, int], str]


@dataclass(frozen=True)
class GgmlBlock:
    """One of llama.cpp's block formats (ggml-common.h).

    Attributes:
        bytes: bytes per block.
        weights: weights per block.
        round: rounding to nearest, with the block's own groups.
    """

    bytes: int
    weights: int
    round: Round


BLOCKS: Mapping[str, GgmlBlock] = {
    # A scale and a minimum for 32 weights, a scale for 16, a scale for 32.
    "Q4_K": GgmlBlock(144, 256, grouped(asymmetric(4), 32)),
    "Q6_K": GgmlBlock(210, 256, grouped(symmetric(6), 16)),
    "Q8_0": GgmlBlock(34, 32, grouped(symmetric(8), 32)),
}


def q8_0(name: str, layers: int) -> str:
    """Return Q8_0 for every tensor."""
    return "Q8_0"


def q4_k_m(name: str, layers: int) -> str:
    """Return Q6_K for the output layer and, in some layers, values and `down_proj`; else Q4_K.

    These are the first and last eighth of the layers, and every third between.
    """
    if name == "lm_head.weight":
        return "Q6_K"
    place = re.search(r"\.layers\.(\d+)\.(?:self_attn\.v_proj|mlp\.down_proj)\.", name)
    if place is None:
        return "Q4_K"
    index, eighth = int(place[1]), layers // 8
    more = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
    return "Q6_K" if more else "Q4_K"
