"""Folders that appear when they are whole: filled under a temporary name beside their own, and then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import locks


def lock_of(folder: Path) -> Path:
    """Return the file of the lock that whoever makes a folder holds."""
    return folder.with_name(f".{folder.name}.lock")


def draft_of(folder: Path) -> Path:
    """Return the temporary name under which this process fills a folder."""
    return folder.with_name(f".{folder.name}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Remove what killed runs left of a folder in the making; the caller holds its lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder unless it is there; another process that is making it is waited for.

    Args:
        folder: the folder.
        make: fills the folder that it is given, which exists and is empty.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.locked(lock_of(folder)):
        if folder.is_dir():
            return
        sweep(folder)
        draft = draft_of(folder)
        try:
            draft.mkdir()
            make(draft)
            draft.rename(folder)
        except OSError:
            # Another process, which no lock kept away, was first.
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
