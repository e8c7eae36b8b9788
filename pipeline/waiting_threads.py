"""Threads of torch that sleep while they wait for each other, instead of spinning on a core that others need.

Beside another busy process a spinning thread waits for one that its spinning keeps from running, at every loop:
minutes for what takes seconds. Servers keep the default, which is somewhat faster alone, so that what is measured is
what runs in production.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

POLICY = "OMP_WAIT_POLICY"
# Settings of the user's own, of which each says how threads wait.
GIVEN = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def environment() -> dict[str, str]:
    """Return the variables for a process whose threads are to sleep; empty if the user has said how they wait."""
    return {} if any(name in os.environ for name in GIVEN) else {POLICY: "PASSIVE"}


@cache
def settle() -> None:
    """Have the threads of torch in this process sleep, but not those of processes that it starts.

    OpenMP's library reads the variable once, when it is loaded, which is before torch is.
    """
    variables = environment()
    os.environ.update(variables)
    try:
        for library in _libraries():
            with suppress(OSError):
                ctypes.CDLL(str(library))
    finally:
        for name in variables:
            del os.environ[name]


def _libraries() -> list[Path]:
    """Return the libraries of OpenMP that come with torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return []
    package = Path(found.origin).parent
    folders = (package / "lib", package.with_name("torch.libs"))
    return sorted(path for folder in folders for path in folder.glob("lib*omp*.so*"))
