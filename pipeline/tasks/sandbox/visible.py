"""Files of the machine that a sandboxed program may read: the interpreter, system libraries and numpy."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/lib32")
SYSTEM_FILES = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
# Not /dev/zero: mapped as shared memory, it holds pages that belong to no process.
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
# Modules of the standard library that are linked with libraries which an interpreter may bring along (conda's does).
LINKED = ("bz2", "ctypes", "decimal", "hashlib", "lzma", "sqlite3", "ssl", "zlib")
# Packages that tests of benchmarks import (EvalPlus).
PACKAGES = ("numpy",)
MAPPED = """
import importlib, json, sys
sys.path += filter(None, sys.argv[1:2])
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
with open("/proc/self/maps") as table:
    print(json.dumps(sorted({line.split(maxsplit=5)[5].strip() for line in table if ".so" in line})))
"""


class Visible(NamedTuple):
    """Paths that a program may read, each at its own place.

    Attributes:
        paths: files and folders, outermost only.
        links: symbolic links, by their place.
        packages: folder that has the packages of `PACKAGES`; "" without any.
    """

    paths: list[str]
    links: dict[str, str]
    packages: str

    def holds(self, path: str) -> bool:
        """Return whether a path is visible."""
        return any(path == each or path.startswith(f"{each}/") for each in self.paths)


@cache
def interpreter() -> str:
    """Return the interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def visible() -> Visible:
    """Return the paths that a program may read."""
    folders = [path for path in SYSTEM_LIBRARIES if os.path.isdir(path)]
    links = {path: os.readlink(path) for path in folders if os.path.islink(path)}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
    packages, folder = _packages()
    wanted = [
        *(path for path in folders if path not in links),
        *SYSTEM_FILES,
        *DEVICES,
        interpreter(),
        # Paths of the interpreter itself; sysconfig's are those of the virtual environment.
        os.path.realpath(os.path.dirname(os.__file__)),
        os.path.realpath(sysconfig.get_config_var("DESTSHARED") or "/nonexistent"),
        *(str(path) for path in library.glob(f"libpython{version}*.so*")),
        *packages,
    ]
    found = Visible([], {**links, "/dev/shm": "/tmp"}, folder)
    _add(found, wanted)
    libraries = [path for path in _libraries(folder) if not found.holds(path)]
    _add(found, libraries)
    for path in libraries:
        found.links.update(_names_of(path))
    return found


def _add(found: Visible, wanted: Iterable[str]) -> None:
    for path in wanted:
        if os.path.exists(path) and not found.holds(path):
            found.paths.append(path)


def _packages() -> tuple[list[str], str]:
    """Return the folders of the packages, with the libraries that their wheels bring, and the folder they are in."""
    found: list[str] = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for place in spec.submodule_search_locations or () if spec else ():
            found += [os.path.realpath(place), os.path.realpath(f"{place}.libs")]
    return found, os.path.dirname(found[0]) if found else ""


def _libraries(packages: str) -> Sequence[str]:
    """Return the shared libraries that the interpreter has loaded after importing what is linked with any."""
    command = [interpreter(), "-I", "-S", "-B", "-c", MAPPED, packages, *LINKED, *PACKAGES]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else ()


def _names_of(library: str) -> dict[str, str]:
    """Return the links by whose names a library is looked up (libz.so.1 for libz.so.1.3)."""
    folder, file = os.path.split(library)
    return {
        entry.path: file
        for entry in os.scandir(folder)
        if entry.is_symlink() and os.path.realpath(entry.path) == library
    }
