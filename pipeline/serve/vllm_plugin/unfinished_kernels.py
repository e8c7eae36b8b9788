"""Kernels of TorchInductor that a killed process left half made, which every later server would fail to load.

The compiler writes a kernel's library under its final name, and what has that name is taken for finished ("file too
short" is all that the server says). Each is made under a file lock, so one whose lock is free is made by nobody: it is
removed, and made again.
"""

from __future__ import annotations

import struct
from pathlib import Path

from pipeline.artifacts.locks import held_if_free

MAGIC = b"\x7fELF"
HEADER_BYTES = 64
# Places in the header of a 64-bit ELF file (System V gABI, 4-4): its sections' table, and the size and number of them.
TABLE_AT, ENTRIES_AT = 0x28, 0x3A


def remove() -> None:
    """Remove what is unfinished in the cache of this process."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    remove_from(Path(cache_dir()))


def remove_from(cache: Path) -> None:
    """Remove the unfinished libraries and precompiled headers of a cache."""
    libraries = {path: is_whole(path) for path in cache.glob("*/*.so")}
    for path, whole in libraries.items():
        if not whole:
            _unlink(path, cache / "locks")
    # Nothing in a precompiled header tells its end, but a library that was made with it does.
    newest = max((path.stat().st_mtime for path, whole in libraries.items() if whole), default=0.0)
    headers = cache / "precompiled_headers"
    for path in headers.glob("*.gch"):
        if path.stat().st_mtime > newest:
            _unlink(path, headers / "locks")


def is_whole(library: Path) -> bool:
    """Return whether a library has its table of sections, which the linker writes last."""
    with library.open("rb") as file:
        header, size = file.read(HEADER_BYTES), library.stat().st_size
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return False
    table: int = struct.unpack_from("<Q", header, TABLE_AT)[0]
    entry, number = struct.unpack_from("<HH", header, ENTRIES_AT)
    return bool(0 < table <= size - entry * number)


def _unlink(path: Path, locks: Path) -> None:
    """Remove a file, unless it is being made."""
    locks.mkdir(exist_ok=True)
    with held_if_free(locks / f"{path.name.partition('.')[0]}.lock") as is_free:
        if is_free:
            path.unlink(missing_ok=True)
