"""Expected size of a checkpoint's weight files, from the scheme and the BF16 shapes only.

Every tensor is predicted with its bytes (`models.layout`), scales of the KV cache and the files' own headers too. So
a format that was not applied everywhere, a tensor that was stored twice and one in a wider type all show, and by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import QuantSettings
from pipeline.formats.layouts import Shape, Stored
from pipeline.models import headers as disk
from pipeline.models import layout
from pipeline.models.architecture import read_config, text_config
from pipeline.models.modules import attentions

HEADER = "(headers)"
# Alignment of tensors in llama.cpp's files, bytes.
ALIGNMENT = 32


def predicted(source: Path, quant: QuantSettings, kv_scales: bool, *, in_float32: bool = False) -> dict[str, int]:
    """Return the bytes of every tensor in a checkpoint's weight files, and those of the files' headers.

    Args:
        source: the BF16 checkpoint.
        quant: the scheme and its engine.
        kv_scales: whether calibrated scales of the KV cache are stored beside the weights.
        in_float32: quantized without native BF16; llm-compressor's tensor and channel scales are float32 then.
    """
    config, original = text_config(read_config(source)), disk.stored_tensors(source)
    tensors = layout.stored(original, config, quant)
    if in_float32 and quant.engine == "llmcompressor":
        found = ((name, shape) for name, (_, shape) in tensors.items() if name.endswith("_scale"))
        tensors |= {name: ("F32", shape) for name, shape in found if not _of_groups(name, quant)}
    sizes = layout.bytes_of(tensors)
    if quant.engine == "gguf":
        return sizes | {HEADER: _gguf_header(source, tensors, sizes)}
    header = _header(tensors, sizes)
    if kv_scales:
        scale: tuple[str, Shape] = ("F32", ())
        scales = {f"{attention}.{x}_scale": scale for attention in attentions(original) for x in "kv"}
        header += _header(scales, layout.bytes_of(scales))
        sizes |= layout.bytes_of(scales)
    return sizes | {HEADER: header}


def _of_groups(scale: str, quant: QuantSettings) -> bool:
    """Return whether a scale is one of groups, by its name."""
    return quant.of(scale.rpartition(".")[0]).effective_group_size is not None


def _header(tensors: Stored, sizes: Mapping[str, int]) -> int:
    """Return the bytes of a safetensors file before its tensors, see `models.safetensors_header`."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        content[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + sizes[name]]}
        end += sizes[name]
    return 8 + -(-len(json.dumps(content, separators=(",", ":"))) // 8) * 8


def _gguf_header(source: Path, tensors: Stored, sizes: Mapping[str, int]) -> int:
    """Estimate a GGUF header: each tensor's name (half as long as here), shape, type, offset and padding."""
    infos = sum(
        8 + len(name) // 2 + 4 + 8 * len(shape) + 4 + 8 + (-sizes[name]) % ALIGNMENT
        for name, (_, shape) in tensors.items()
    )
    return infos + _vocabulary(source)


def _vocabulary(source: Path) -> int:
    """Return the bytes of the tokenizer in a GGUF file: each token with its type, each merge, the chat template."""
    path = source / "tokenizer.json"
    if not path.is_file():
        return 0
    tokenizer = json.loads(path.read_text())
    model = tokenizer.get("model", {})
    tokens = {*model.get("vocab", {}), *(item["content"] for item in tokenizer.get("added_tokens", []))}
    merges = [item if isinstance(item, str) else " ".join(item) for item in model.get("merges") or []]
    templates = sum(file.stat().st_size for file in source.glob("chat_template*"))
    return sum(8 + len(token.encode()) + 4 for token in tokens) + sum(8 + len(m.encode()) for m in merges) + templates


def differences(expected: Mapping[str, int], folder: Path) -> list[str]:
    """Return the tensors that are unexpected, missing, or of another size, each with both sizes."""
    seen = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in disk.headers(folder).items()}
    names = sorted({*expected, *seen} - {HEADER})
    return [
        f"{name}: {here:,} bytes instead of {there:,}"
        for name in names
        if (here := seen.get(name, 0)) != (there := expected.get(name, 0))
    ]
