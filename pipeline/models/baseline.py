"""The BF16 checkpoint that a source is made into, where it is not one as it lies.

transformers takes `model.safetensors` before the index, vLLM takes Mistral's second set of weights before either, and
a float16 config is served in float16. So a source with other weights beside, in another type, or with buffers that
its model computes today gets a folder of its own: links to what is right, and a copy of what is not. That folder is
what calibration, engines, the gate and the server read.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.models.architecture import CONFIG, read_config
from pipeline.models.safetensors import (
    INDEX,
    MODEL,
    WEIGHTS,
    TensorInfo,
    companions,
    safetensors_files,
    safetensors_header,
    write_index,
)

BF16 = "bfloat16"
# Types that are cast, by safetensors' name.
CAST = {"F64": "float64", "F32": "float32", "F16": "float16"}
BF16_BYTES = 2
# Buffers that models compute today and older releases stored: rotary frequencies, causal masks. vLLM drops them too.
ROTARY = re.compile(r"(^|\.)rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)$")
MASK = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$")
ADAPTER = "adapter_config.json"
# The source's model card, which names its license.
CARD = "README.md"


@dataclass(frozen=True)
class Difference:
    """Differences between a source's folder and a BF16 checkpoint.

    Attributes:
        dtype: type that most of the weights are stored in; empty if it is BF16.
        declares: type that config.json names, if it would be cast; else empty.
        buffers: tensors that are left out.
        others: files with weights that are not the checkpoint's.
        files: weight files, by their name in a checkpoint.
        is_loadable: whether transformers finds them by their names, and loads nothing else.
    """

    dtype: str
    declares: str
    buffers: tuple[str, ...]
    others: tuple[str, ...]
    files: Mapping[str, Path]
    is_loadable: bool

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.dtype or self.declares or self.buffers or self.others or not self.is_loadable)

    @property
    def text(self) -> str:
        """Sentence for the user; empty if nothing about the weights differs."""
        parts = []
        if self.dtype:
            parts.append(f"stored in {self.dtype}, cast to BF16 once for every variant, bf16 included")
        elif self.declares:
            parts.append(f"config.json names {self.declares}, the weights are BF16 and are served so")
        if self.buffers:
            parts.append(f"{len(self.buffers)} buffer(s) left out ({self.buffers[0]})")
        if self.others:
            parts.append(f"other weights left out ({', '.join(self.others[:3])})")
        return "; ".join(parts)


def difference(folder: Path) -> Difference:
    """Return how a source's folder differs from a BF16 checkpoint.

    Raises:
        InputError: if it holds several sets of weights, and nothing says which is meant.
    """
    files = {path.name: path for path in safetensors_files(folder)}
    indexed = (folder / INDEX).is_file()
    # With its library installed, transformers loads the model that an adapter's config names.
    is_loadable = (indexed or set(files) == {MODEL}) and not (folder / ADAPTER).exists()
    if len(files) == 1 and not indexed:
        files = {MODEL: next(iter(files.values()))}
    values: Counter[str] = Counter()
    buffers: list[str] = []
    seen: dict[str, str] = {}
    for path in files.values():
        for name, info in safetensors_header(path).items():
            if not indexed and name in seen:
                raise InputError(
                    f"{folder} holds {name} in {seen[name]} and in {path.name}, and no {INDEX} says which counts.",
                    "Fetch the index, or move the weights that are not meant to another folder.",
                )
            seen[name] = path.name
            if is_buffer(name, info):
                buffers.append(name)
            else:
                values[info["dtype"]] += prod(info["shape"])
    dtype = values.most_common(1)[0][0] if values else "BF16"
    chosen = set(files.values())
    others = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in (WEIGHTS, ".gguf") and path not in chosen
    )
    return Difference(
        dtype=CAST.get(dtype, ""),
        declares=other_dtype(read_config(folder)),
        buffers=tuple(sorted(buffers)),
        others=tuple(others),
        files=files,
        is_loadable=is_loadable,
    )


def other_dtype(config: Mapping[str, Any]) -> str:
    """Return the type of the weights that a config.json names, if it is one that is cast; else empty."""
    named = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return named if named in CAST.values() else ""


def is_buffer(name: str, info: TensorInfo) -> bool:
    """Return whether a tensor is no parameter: its model computes it."""
    if match := MASK.search(name):
        return match[2] == "masked_bias" or len(info["shape"]) == 4
    return ROTARY.search(name) is not None


def make(folder: Path, target: Path, found: Difference) -> None:
    """Write the BF16 checkpoint of a source.

    Args:
        folder: the source.
        target: an empty folder.
        found: how the source differs.

    Raises:
        InputError: if the disk has no room for it.
    """
    copied = {name: path for name, path in found.files.items() if found.dtype or _has_buffers(path)}
    needed = sum(_cast_bytes(safetensors_header(path)) for path in copied.values())
    if needed > shutil.disk_usage(target).free:
        raise InputError(
            f"{target.parent} has no room for {needed / 2**30:.1f} GiB: {folder} is {found.text}.",
            "Free some space, or set outputs=<a folder on another disk>.",
        )
    for path in [*companions(folder), folder / CARD]:
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    for name, path in found.files.items():
        if name in copied:
            _write(path, target / name, cast=bool(found.dtype))
        else:
            (target / name).symlink_to(path.resolve())
    write_index(target, list(found.files))
    write_config(read_config(folder), target)


def _has_buffers(path: Path) -> bool:
    return any(is_buffer(name, info) for name, info in safetensors_header(path).items())


def _cast_bytes(header: Mapping[str, TensorInfo]) -> int:
    return sum(BF16_BYTES * prod(info["shape"]) for info in header.values())


def write_config(config: dict[str, Any], folder: Path) -> None:
    """Write a config.json that names BF16 as the type of the weights."""
    (folder / CONFIG).write_text(json.dumps(_declare(config) | {"dtype": BF16}, indent=2))


def _declare(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config that names BF16 wherever it names a type."""
    return {
        name: _declare(value) if isinstance(value, dict) else BF16 if name in ("dtype", "torch_dtype") else value
        for name, value in config.items()
    }


def _write(source: Path, target: Path, *, cast: bool) -> None:
    """Write a file without its buffers and with its numbers in BF16, one tensor in memory at a time."""
    import torch
    from safetensors import safe_open

    stored = {name: info for name, info in safetensors_header(source).items() if not is_buffer(name, info)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, info in stored.items():
        start, is_cast = end, cast and info["dtype"] in CAST
        end += BF16_BYTES * prod(info["shape"]) if is_cast else info["data_offsets"][1] - info["data_offsets"][0]
        dtype = "BF16" if is_cast else info["dtype"]
        header[name] = {"dtype": dtype, "shape": info["shape"], "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with safe_open(source, framework="pt") as tensors, target.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, info in stored.items():
            tensor = tensors.get_tensor(name)
            if cast and info["dtype"] in CAST:
                tensor = tensor.to(torch.bfloat16)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())
