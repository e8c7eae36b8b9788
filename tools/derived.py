"""Files that are written from the code, by `make config` and `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Apply `change` to the file's text, and print whether it changed."""
    before = path.read_text(encoding="utf-8")
    after = change(before)
    path.write_text(after, encoding="utf-8")
    sys.stdout.write(f"{path.parent.name}/{path.name}: {'unchanged' if after == before else 'written'}\n")
