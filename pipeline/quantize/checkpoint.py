"""What is on disk: a checkpoint's files, and how its weights are stored, read from headers alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from pipeline.models import WEIGHTS


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tensor of a checkpoint with `dtype`, `shape` and `data_offsets`, without reading any tensor."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found |= header
    return found


def weight_bytes(folder: Path) -> int:
    """Bytes of all weight files."""
    return sum(path.stat().st_size for path in folder.glob(f"*{WEIGHTS}"))


def quantization_config(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint's config.json, empty for BF16."""
    config = json.loads((folder / "config.json").read_text())
    return dict(config.get("quantization_config") or {})


def quantized_modules(folder: Path) -> set[str]:
    """Names of the modules that carry a weight scale."""
    return {name.removesuffix(".weight_scale") for name in headers(folder) if name.endswith(".weight_scale")}


def describe(folder: Path) -> dict[str, Any]:
    """The figures of a checkpoint that the report shows."""
    config = quantization_config(folder)
    return {
        "bytes": weight_bytes(folder),
        "quantized_layers": len(quantized_modules(folder)),
        "format": config.get("format") or "bf16",
        "ignore": config.get("ignore") or [],
    }
