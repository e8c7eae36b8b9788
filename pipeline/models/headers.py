"""What is on disk: a checkpoint's files, and how its weights are stored, read from headers alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline.formats import unpack_gguf
from pipeline.formats.layouts import MARKS
from pipeline.models.safetensors import WEIGHTS, safetensors_header


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tensor of a checkpoint with `dtype`, `shape` and `data_offsets`, without reading any tensor."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        found |= safetensors_header(path)
    if blocks := gguf_file(folder):
        found |= unpack_gguf.headers(blocks)
    return found


def gguf_file(folder: Path) -> Path | None:
    """The file of a checkpoint in llama.cpp's format; None in any other."""
    path = folder / unpack_gguf.FILE
    return path if path.is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """All files that hold weights."""
    path = gguf_file(folder)
    return sorted(folder.glob(f"*{WEIGHTS}")) if path is None else [path]


def weight_bytes(folder: Path) -> int:
    """Bytes of all weight files."""
    return sum(path.stat().st_size for path in weight_files(folder))


def quantization_config(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint's config.json, empty for BF16; what a GGUF file says of itself."""
    if path := gguf_file(folder):
        return {"quant_method": "gguf", "format": f"gguf {unpack_gguf.file_type(path)}"}
    config = json.loads((folder / "config.json").read_text())
    return dict(config.get("quantization_config") or {})


def layout_name(config: dict[str, Any]) -> str:
    """What a `quantization_config` calls the way in which weights are stored, see `formats.layouts`."""
    method = str(config.get("quant_method"))
    if method == "compressed-tensors":
        return str(config["format"])
    return str(config.get("checkpoint_format") or method) if method == "gptq" else method


def quantized_modules(folder: Path) -> set[str]:
    """Names of the modules that carry a weight scale, or whose weights are blocks with scales in them."""
    if gguf_file(folder):
        rounded = (name for name, item in headers(folder).items() if item["dtype"] not in unpack_gguf.UNQUANTIZED)
        return {name.removesuffix(".weight") for name in rounded}
    return {name.removesuffix(mark) for name in headers(folder) for mark in MARKS if name.endswith(mark)}


def describe(folder: Path) -> dict[str, Any]:
    """The figures of a checkpoint that the report shows."""
    config = quantization_config(folder)
    return {
        "bytes": weight_bytes(folder),
        "quantized_layers": len(quantized_modules(folder)),
        "format": config.get("format") or config.get("quant_method") or "bf16",
        "ignore": ignored(config),
    }


def ignored(config: dict[str, Any]) -> list[str]:
    """The modules that a `quantization_config` says were left alone."""
    if config.get("quant_method") == "gptq":
        # Its rules are patterns, one for each module here; lm_head is left alone without one.
        rules = [rule for rule in config.get("dynamic") or {} if rule.startswith("-:")]
        return [re.sub(r"\\(.)", r"\1", rule.removeprefix("-:^").removesuffix("$")) for rule in rules]
    names = ("ignore", "llm_int8_skip_modules", "modules_to_not_convert")
    return list(next((config[name] for name in names if config.get(name)), []))
