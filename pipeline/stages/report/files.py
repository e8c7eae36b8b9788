"""The report's files, each replaced atomically, so that a reader never sees a partial page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.artifacts.drafts import lock_of
from pipeline.artifacts.locks import locked
from pipeline.errors import StageError

# Files that a report may consist of; other files in its folder are never removed.
REPORT_FILES = ("index.html", "report.md", "report.csv", "report_long.csv", "report.json", "charts/*.png")


def publish(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write each file, by its name below `folder`, and remove other files of an earlier report.

    Raises:
        StageError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(lock_of(folder)):
            _write(folder, contents)
    except OSError as error:
        raise StageError(
            f"report: {error.strerror or error}: {error.filename or folder}.",
            "Free some space or set outputs=<a folder on another disk>.",
        ) from error


def _write(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    for name, content in contents.items():
        replace(folder / name, content.encode() if isinstance(content, str) else content)
    # What killed runs were writing goes, too.
    for path in [path for pattern in (*REPORT_FILES, "**/.*.tmp") for path in folder.glob(pattern)]:
        if path.relative_to(folder).as_posix() not in contents:
            path.unlink()
    charts = folder / "charts"
    if charts.is_dir() and not any(charts.iterdir()):
        charts.rmdir()


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
