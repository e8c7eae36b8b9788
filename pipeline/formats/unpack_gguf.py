"""GGUF files of llama.cpp: tensors under their names in the BF16 checkpoint, and their decoding."""

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
# llama.cpp's names -> those of transformers' dense decoders; other names are unchanged.
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
    """Return a tensor's BF16 name: `blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if found := _BLOCK.fullmatch(stem):
        inside = _INSIDE.get(found[2])
        return name if inside is None else f"model.layers.{found[1]}.{inside}.{kind}"
    return f"{_OUTSIDE.get(stem, stem)}.{kind}"


def headers(path: Path) -> dict[str, dict[str, Any]]:
    """Return every tensor's `dtype` (llama.cpp's, such as Q4_K), `shape` (out, in) and `data_offsets`; read none."""
    return {
        original_name(tensor.name): {
            "dtype": tensor.tensor_type.name,
            "shape": [int(size) for size in reversed(tensor.shape)],
            "data_offsets": [int(tensor.data_offset), int(tensor.data_offset + tensor.n_bytes)],
        }
        for tensor in _reader(path).tensors
    }


def check(path: Path) -> None:
    """Compare a GGUF file's length with that implied by its header.

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
    """Return the name of the mixture that the file declares, such as Q4_K_M."""
    from gguf import LlamaFileType

    return str(LlamaFileType(_reader(path).get_field("general.file_type").contents()).name).removeprefix("MOSTLY_")


def tensors(path: Path) -> dict[str, Any]:
    """Return every tensor of the file by its original name, as `weight` takes it; read none."""
    return {original_name(tensor.name): tensor for tensor in _reader(path).tensors}


def weight(tensor: Any) -> torch.Tensor:
    """Return one of `tensors`, decoded to float32."""
    return dequantize(tensor.data, tensor.tensor_type.name)


def weights(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor under its original name, as float32, one at a time."""
    for name, tensor in tensors(path).items():
        yield name, weight(tensor)


def dequantize(blocks: Any, kind: str) -> torch.Tensor:
    """Return the decoded blocks of a tensor, as float32 of shape (out, in).

    Args:
        blocks: the file's array; bytes of shape (out, bytes of a row) for the block formats.
        kind: llama.cpp's name of the format, such as Q4_K.
    """
    import numpy
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as decode

    # A float32 array is a view of the file, which torch must not write to.
    return torch.from_numpy(numpy.require(decode(blocks, GGMLQuantizationType[kind]), requirements="W"))


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)
