"""Drawings made before, kept in the user's cache: of a report that is made anew, most charts are as they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from pipeline.artifacts.workspace import user_cache
from pipeline.stages.report import files

CACHE = "PIPELINE_DRAWINGS"
# Maximum number of drawings (the least recently used are removed); a report has about 40, of 20 to 150 kB.
MAX_DRAWINGS = 400


def drawing(spec: str, draw: Callable[[str], str]) -> str:
    """A chart's SVG, drawn now or kept from before; a cache that cannot be used is done without."""
    path = _folder() / f"{sha256(f'{_engine()} {spec}'.encode()).hexdigest()}.svg"
    with suppress(OSError):
        text = path.read_text(encoding="utf-8")
        os.utime(path)
        return text
    text = draw(spec)
    with suppress(OSError):
        files.replace(path, text.encode())
    return text


def has_some() -> bool:
    """True where there are drawings: a report made before leaves few to be drawn."""
    with suppress(OSError):
        return any(_folder().iterdir())
    return False


def evict() -> None:
    """Removes the drawings that were not used for longest."""
    with suppress(OSError):
        for path in sorted(_folder().iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_DRAWINGS]:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return user_cache("drawings", CACHE)


@cache
def _engine() -> str:
    return f"vl-convert {version('vl-convert-python')}"
