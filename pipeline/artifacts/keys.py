"""Artifact keys: canonical encoding of a payload, its hash, and the fields in which two payloads differ."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from pipeline.errors import InputError
from pipeline.json_files import read_json_object

# The identity of an artifact, as plain data: whatever its content depends on, and nothing else.
Payload = dict[str, Any]
HASH = re.compile(r"[0-9a-f]{64}")


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, for hashing; raise TypeError on a type whose identity is not its text."""

    def encode(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump()
        if isinstance(item, Enum):
            return item.value
        if isinstance(item, PurePath):
            raise TypeError(f"a path has no identity, hash its content: {item}")
        raise TypeError(f"cannot be part of a key: {type(item).__name__}")

    return json.dumps(value, default=encode, sort_keys=True, ensure_ascii=False, allow_nan=False)


def key_of(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical payload, 64 hex digits."""
    return hashlib.sha256(canonical(payload).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_fields(old: Any, new: Any, at: str = "") -> list[str]:
    """Return the differences between two payloads, as lines `dotted.name old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in changed_fields(old.get(name), new.get(name), f"{at}.{name}" if at else name)
        ]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list):
        # Elements that both have say nothing, unless their order is all that differs.
        gone, come = [each for each in old if each not in new], [each for each in new if each not in old]
        old, new = (_listed(gone), _listed(come)) if gone or come else (old, new)
    return [f"{at} {_short(old)} -> {_short(new)}"]


def _listed(values: list[Any]) -> str:
    return ", ".join(map(_short, values)) or "nothing"


def _short(value: Any) -> str:
    """Return a value as settings have it, a hash shortened to its first digits."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return text[:8] if HASH.fullmatch(text) else text


class Digests:
    """SHA-256 of input files, cached by path, size and modification time: a 16 GB model is read once."""

    def __init__(self, cache: Path) -> None:
        """Store the computed digests in the file `cache`."""
        self.cache = cache

    def of(self, path: Path) -> str:
        """Return the SHA-256 of `path`, from the cache if the file is unchanged."""
        stat = path.stat()
        mark = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        known = self._read()
        if mark not in known:
            known[mark] = sha256_of(path)
            # Without it the file is only read again; what must be written says what is wrong.
            with contextlib.suppress(OSError):
                self._write(known)
        return str(known[mark])

    def of_folder(self, folder: Path) -> dict[str, str]:
        """Return the SHA-256 of each file below `folder`, by relative path."""
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {path.relative_to(folder).as_posix(): self.of(path) for path in paths}

    def _write(self, known: Mapping[str, str]) -> None:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        partial = self.cache.with_suffix(f".{os.getpid()}")
        try:
            partial.write_text(json.dumps(known, indent=1))
            partial.rename(self.cache)
        finally:
            partial.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        try:
            return read_json_object(self.cache)
        except InputError:
            return {}
