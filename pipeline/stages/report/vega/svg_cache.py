"""A cache of drawings in the user's cache folder: most charts of a repeated report are unchanged."""

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
    """Return a chart's SVG from the cache, else draw it; errors of the cache are ignored."""
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
    """Return True if there are cached drawings, of which a repeated report uses most."""
    with suppress(OSError):
        return any(_folder().iterdir())
    return False


def evict() -> None:
    """Remove the least recently used drawings."""
    with suppress(OSError):
        for path in sorted(_folder().iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_DRAWINGS]:
            path.unlink(missing_ok=True)


def _folder() -> Path:
    return user_cache("drawings", CACHE)


@cache
def _engine() -> str:
    return f"vl-convert {version('vl-convert-python')}"
