"""Tiny source checkpoints of any type and layout, written without torch: headers by hand, bytes of zeros."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = {"F64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1, "BOOL": 1}
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def tensors_of(config: Mapping[str, Any], dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a Qwen3 of this config."""
    from pipeline.models.architecture import DecoderShape

    return {name: (dtype, shape) for name, shape in DecoderShape.of(config).tensors.items()}


def write_header(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file of zeros; a sparse one, so a shape of any size takes no room."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)


def write_index(folder: Path, shards: Mapping[str, Tensors]) -> None:
    """Write shards with their index."""
    for name, tensors in shards.items():
        write_header(folder / name, tensors)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_source(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """Write a whole source: config, weights of zeros, and the least tokenizer files with a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {**CONFIG, **config}
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_header(folder / "model.safetensors", tensors_of(CONFIG) if tensors is None else tensors)
    return folder
