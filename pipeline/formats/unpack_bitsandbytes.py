"""Decoding of weights stored by bitsandbytes, in pure torch.

NF4 (Dettmers et al., "QLoRA", 2023, section 3): two codes a byte, the first in the high bits; each code names an entry
of a table, and `blocksize` consecutive weights share a scale, `absmax`. With double quantization the scales are codes
themselves, in blocks of 256, around their mean. INT8 ("LLM.int8()", 2022): `SCB` is each row's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.json_files import parse_json

if TYPE_CHECKING:
    import torch

STATE = "weight.quant_state.bitsandbytes__nf4"
ROW_SCALE = "SCB"


def dequantize(name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return one module's weight, as float32 of shape (out, in).

    Args:
        name: name of the module, such as `model.layers.0.mlp.up_proj`.
        tensors: at least those of the checkpoint whose names begin with it.
    """
    return unpack({key.removeprefix(f"{name}."): value for key, value in tensors.items()}, 0)


def unpack(tensors: Mapping[str, torch.Tensor], bits: int) -> torch.Tensor:
    """Return a weight from its module's tensors by their own names."""
    if ROW_SCALE in tensors:
        return dequantize_int8(tensors["weight"], tensors[ROW_SCALE])
    state, scales = read_state(tensors[STATE]), tensors["weight.absmax"]
    if "weight.nested_absmax" in tensors:
        scales = dequantize_scales(
            scales,
            tensors["weight.nested_absmax"],
            tensors["weight.nested_quant_map"],
            state["nested_offset"],
            state["nested_blocksize"],
        )
    shape, table = tuple(state["shape"]), tensors["weight.quant_map"]
    return dequantize_nf4(tensors["weight"], scales, table, shape, state["blocksize"])


def read_state(packed: torch.Tensor) -> dict[str, Any]:
    """Return bitsandbytes' quantization state of a weight: JSON in a tensor of bytes."""
    return dict(parse_json(bytes(packed.tolist())))


def dequantize_nf4(
    codes: torch.Tensor, scales: torch.Tensor, table: torch.Tensor, shape: tuple[int, ...], blocksize: int
) -> torch.Tensor:
    """Return each code's table entry times its block's scale.

    Args:
        codes: bytes of two codes each, in any shape.
        scales: one a block, in the order of the weights.
        table: the 16 numbers that codes index.
        shape: of the weight, (out, in).
        blocksize: consecutive weights that share a scale.
    """
    import torch

    flat = codes.flatten()
    numbers = table.float()[torch.stack([flat >> 4, flat & 15], dim=-1).flatten().long()]
    return (_by_block(numbers, scales, blocksize)).reshape(shape)


def dequantize_scales(
    codes: torch.Tensor, scales: torch.Tensor, table: torch.Tensor, offset: float, blocksize: int
) -> torch.Tensor:
    """Return as float32 the scales that double quantization stored as bytes."""
    return _by_block(table.float()[codes.flatten().long()], scales, blocksize) + offset


def dequantize_int8(weight: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return integers times their row's largest magnitude over 127."""
    return weight.float() * (largest.float().reshape(-1, 1) / 127)


def _by_block(numbers: torch.Tensor, scales: torch.Tensor, blocksize: int) -> torch.Tensor:
    """Multiply each block of consecutive numbers, the last possibly shorter, by its scale."""
    return numbers * scales.float().flatten().repeat_interleave(blocksize)[: len(numbers)]
