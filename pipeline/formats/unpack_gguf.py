"""GGUF files of llama.cpp: tensors under the names of the BF16 checkpoint, and the numbers that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

FILE = "model.gguf"
UNQUANTIZED = ("F32", "F16", "BF16")
# llama.cpp's names -> those of transformers' dense decoders; what is not listed keeps its name.
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def original_name(name: str) -> str:
    """What the BF16 checkpoint calls a tensor: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if found := _BLOCK.fullmatch(stem):
        inside = _INSIDE.get(found[2])
        return name if inside is None else f"model.layers.{found[1]}.{inside}.{kind}"
    return f"{_OUTSIDE.get(stem, stem)}.{kind}"


def headers(path: Path) -> dict[str, dict[str, Any]]:
    """Every tensor with `dtype` (llama.cpp's, such as Q4_K), `shape` (out, in) and `data_offsets`; none is read."""
    return {
        original_name(tensor.name): {
            "dtype": tensor.tensor_type.name,
            "shape": [int(size) for size in reversed(tensor.shape)],
            "data_offsets": [int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes)],
        }
        for tensor in _reader(path).tensors
    }


def check(path: Path) -> None:
    """Compares a GGUF file's length with what its header promises.

    Raises:
        InputError: when the file is cut short or is no GGUF file.
    """
    try:
        end = max(item["data_offsets"][1] for item in headers(path).values())
    except (ValueError, KeyError, IndexError, EOFError) as error:
        raise InputError(f"{path} is truncated or no GGUF file ({error}).", "Make the checkpoint again.") from None
    if path.stat().st_size < end:
        raise InputError(f"{path} is truncated: its header promises {end:,} bytes.", "Make the checkpoint again.")


def file_type(path: Path) -> str:
    """The name of the mixture that the file says it is, such as Q4_K_M."""
    from gguf import LlamaFileType

    return str(LlamaFileType(_reader(path).get_field("general.file_type").contents()).name).removeprefix("MOSTLY_")


def tensors(path: Path) -> dict[str, Any]:
    """Every tensor of the file under its original name, as `weight` takes it; none is read."""
    return {original_name(tensor.name): tensor for tensor in _reader(path).tensors}


def weight(tensor: Any) -> torch.Tensor:
    """The numbers of one of `tensors`, as float32."""
    return dequantize(tensor.data, tensor.tensor_type.name)


def weights(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under its original name, as float32, one at a time."""
    for name, tensor in tensors(path).items():
        yield name, weight(tensor)


def dequantize(blocks: Any, kind: str) -> torch.Tensor:
    """The numbers that a tensor's blocks stand for, as float32 of shape (out, in).

    Args:
        blocks: the file's array; bytes of shape (out, bytes of a row) for the block formats.
        kind: llama.cpp's name of the format, such as Q4_K.
    """
    import numpy
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as decode

    # What is float32 already is a view of the file, which torch must not get to write to.
    return torch.from_numpy(numpy.require(decode(blocks, GGMLQuantizationType[kind]), requirements="W"))


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)
