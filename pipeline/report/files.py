"""The report's files: each is replaced whole, so a reader never sees half a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import StageError

NAMES = {"html": "index.html", "md": "report.md", "csv": "report.csv", "json": "report.json"}


def publish(folder: Path, contents: Mapping[str, str]) -> dict[str, Path]:
    """Writes each format, and removes those of an earlier report that were not asked for now.

    Raises:
        StageError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for kind, name in NAMES.items():
            path = folder / name
            if kind not in contents:
                path.unlink(missing_ok=True)
                continue
            partial = folder / f".{name}.{os.getpid()}.tmp"
            try:
                partial.write_text(contents[kind], encoding="utf-8")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            written[kind] = path
    except OSError as error:
        raise StageError(
            f"report: {error.strerror or error}: {error.filename or folder}.",
            "Free some space or set outputs=<a folder on another disk>.",
        ) from error
    return written
