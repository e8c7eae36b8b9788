"""Files of a checkpoint: safetensors headers, the index of shards, and the tokenizer and config files beside them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import TypedDict

from pipeline.errors import InputError

WEIGHTS = ".safetensors"


# Files of a checkpoint beside its weights and config.json, read by the quantizers, vLLM and lm-eval.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "*.model",
)


def companions(folder: Path) -> list[Path]:
    """Return a checkpoint's files beside weights and config.json: tokenizer, template, generation config."""
    return sorted({path for pattern in COMPANIONS for path in folder.glob(pattern) if path.is_file()})


class TensorInfo(TypedDict):
    """Header entry of a tensor: its type by safetensors' name (or llama.cpp's), and the offsets of its bytes."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the `dtype`, `shape` and `data_offsets` of every tensor of a safetensors file, without reading any."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, TensorInfo] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return the safetensors file of each tensor of a checkpoint."""
    return {name: path for path in sorted(folder.glob(f"*{WEIGHTS}")) for name in safetensors_header(path)}


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's length with that implied by its header.

    Source: the safetensors format, https://github.com/huggingface/safetensors#format.

    Raises:
        InputError: when the file is cut short or has no valid header.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= size else {}
        ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no safetensors file ({error}).", "Fetch the checkpoint again.") from None
    if size != expected:
        raise InputError(
            f"{path} is truncated: {size:,} bytes, its header promises {expected:,}.",
            "Fetch the checkpoint again.",
        )


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation config unchanged."""
    for path in companions(source):
        shutil.copyfile(path, target / path.name)
