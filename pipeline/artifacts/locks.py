"""Locks of artifacts between processes; a waiting one can tell who holds it.

The kernel releases a lock with its process. Where the storage has no such locks, a file stands for it, and names a
process whose end frees it (`filelock.SoftFileLock`). Both hold process and host in their first two lines.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

# Errors of storage without locks; the library itself knows ENOSYS.
UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP)
# Suffix of the file that is a lock itself.
SOFT = ".softlock"


@contextmanager
def locked(path: Path, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold a lock within the block; it is reentrant within a thread.

    Args:
        path: file of the lock, in an existing folder; it stays.
        waiting: called once with a description of the holder if that is another process.
    """
    lock = _acquired(path, waiting)
    try:
        with suppress(OSError):
            _sign(path)
        yield
    finally:
        lock.release()


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock within the block if nobody else does; yield whether it is held."""
    from filelock import Timeout

    try:
        lock = _lock(path, blocking=False)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Describe the process that holds a lock."""
    soft = path.with_suffix(SOFT)
    try:
        process, host = (soft if soft.exists() else path).read_text(errors="replace").split("\n")[:2]
    except (OSError, ValueError):
        return "another process"
    here = "" if host == socket.gethostname() else f" on {host}"
    return f"process {process}{here}" if process.isdecimal() else "another process"


def _acquired(path: Path, waiting: Callable[[str], None]) -> BaseFileLock:
    from filelock import Timeout

    try:
        return _lock(path, blocking=False)
    except Timeout:
        waiting(holder(path))
        return _lock(path, blocking=True)


def _lock(path: Path, *, blocking: bool) -> BaseFileLock:
    from filelock import FileLock, SoftFileLock

    lock: BaseFileLock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(blocking=blocking)
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
        lock = SoftFileLock(path.with_suffix(SOFT), is_singleton=True)
        lock.acquire(blocking=blocking)
    return lock


def _sign(path: Path) -> None:
    """Name this process in the lock's file, unless the library has done so."""
    text = f"{os.getpid()}\n{socket.gethostname()}\n"
    if path.is_file() and not path.read_text(errors="replace").startswith(text):
        path.write_text(text)
