"""`outputs/`: where an artifact lives, what it was made from, and whether it is still good.

An artifact is a folder with a `manifest.json`. Its key is the hash of what its content depends on and nothing else, so
a changed setting leads to another folder and an unchanged one to the same. A folder is filled under a temporary name
and renamed when whole, the manifest written last: what has a manifest is finished, whatever killed the run before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import InputError, NotApplicable, PipelineError, StageError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
HASH = re.compile(r"[0-9a-f]{64}")
Status = Literal["ok", "failed", "not_applicable"]


def user_cache(name: str, variable: str) -> Path:
    """Where something is kept for all runs of a user, unless the environment variable names another folder."""
    return Path(os.environ.get(variable) or Path.home() / ".cache" / "quantization-pipeline" / name)


class FileRecord(BaseModel):
    """A file of an artifact, or the target of a link."""

    size: int
    sha256: str
    link: str | None = None


class Manifest(BaseModel):
    """The record of an artifact, written once, last."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    model: str
    variant: str | None
    status: Status
    reason: str | None = None
    key: str
    payload: dict[str, Any]
    overrides: list[str] = []
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    started: str
    seconds: float
    results: dict[str, Any] = {}
    files: dict[str, FileRecord] = {}


def canonical(value: Any) -> str:
    """JSON with sorted keys, for hashing; raises TypeError on a type whose identity is not its text."""

    def encode(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump()
        if isinstance(item, Enum):
            return item.value
        if isinstance(item, PurePath):
            raise TypeError(f"a path is no identity, hash what is in it: {item}")
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
    """What differs between two payloads, as lines `dotted.name old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in changed_fields(old.get(name), new.get(name), f"{at}.{name}" if at else name)
        ]
    return [] if old == new else [f"{at} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    """A value for a message; of a hash its first digits."""
    text = str(value)
    return text[:8] if HASH.fullmatch(text) else text


class Artifact(BaseModel):
    """One thing to be made: its place, and what identifies it."""

    model_config = ConfigDict(frozen=True)

    stage: str
    model: str
    variant: str | None
    payload: dict[str, Any]
    folder: Path

    @property
    def key(self) -> str:
        """Hash of the payload."""
        return key_of(self.payload)

    @property
    def name(self) -> str:
        """How the artifact is called in messages."""
        return f"{self.stage} {self.variant}" if self.variant else self.stage

    def manifest(self) -> Manifest | None:
        """The record, or None where the artifact is not finished."""
        return read_manifest(self.folder)


def read_manifest(folder: Path) -> Manifest | None:
    """Reads a folder's record; None without one.

    Raises:
        InputError: on a record of another schema version, or one that is not ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    if content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {content.get('schema_version')}, this release reads {SCHEMA_VERSION}.",
            "Remove that folder, or set outputs=<another folder>.",
        )
    return Manifest.model_validate(content)


class Workspace:
    """The folder of all artifacts."""

    def __init__(self, root: Path) -> None:
        """Uses `root`, which need not exist."""
        self.root = root

    def artifact(self, stage: str, model: str, variant: str | None, payload: dict[str, Any]) -> Artifact:
        """The artifact with that identity, finished or not."""
        plain = json.loads(canonical(payload))
        folder = self.root / model / (variant or ".") / f"{stage}-{key_of(plain)[:8]}"
        return Artifact(stage=stage, model=model, variant=variant, payload=plain, folder=folder)

    def manifests(self, model: str, stage: str | None = None) -> Iterator[tuple[Path, Manifest]]:
        """Every finished artifact of a model, oldest first."""
        found = []
        for path in (self.root / model).glob(f"**/{stage or '*'}-*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                manifest = read_manifest(path.parent)
                if manifest is not None:
                    found.append((path.parent, manifest))
        yield from sorted(found, key=lambda item: item[1].started)

    def why(self, artifact: Artifact) -> str | None:
        """Why the artifact has to be made, or None where a good one is there."""
        manifest = artifact.manifest()
        if manifest is not None:
            damage = _damage(artifact.folder, manifest)
            if manifest.status == "ok" and not damage:
                return None
            return damage or f"{manifest.status} before"
        others = [
            other
            for folder, other in self.manifests(artifact.model, artifact.stage)
            if other.variant == artifact.variant and folder != artifact.folder
        ]
        if not others:
            return "not there yet"
        return ", ".join(changed_fields(others[-1].payload, artifact.payload)) or "not there yet"

    @contextmanager
    def making(self, artifact: Artifact, context: Mapping[str, Any]) -> Iterator[Draft]:
        """Fills an artifact; publishes it when the block ends, whole or as a failure.

        A PipelineError is recorded with its reason and raised on; NotApplicable is a status of its own.

        Args:
            artifact: what is made.
            context: further fields of the manifest (versions, hardware, provenance, overrides).
        """
        from filelock import FileLock

        parent = artifact.folder.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"outputs={self.root}: {error.strerror}.", "Set outputs=<a folder>.") from None
        with FileLock(parent / f".{artifact.folder.name}.lock"):
            _sweep(parent, artifact.folder.name)
            kept = parent / f".{artifact.folder.name}.kept"
            draft = Draft(parent / f".{artifact.folder.name}.{os.getpid()}.tmp", kept)
            draft.folder.mkdir()
            started, clock = datetime.now(UTC), time.monotonic()

            def publish(status: Status, reason: str | None = None) -> None:
                manifest = Manifest(
                    stage=artifact.stage,
                    model=artifact.model,
                    variant=artifact.variant,
                    status=status,
                    reason=reason,
                    key=artifact.key,
                    payload=artifact.payload,
                    started=started.isoformat(timespec="milliseconds"),
                    seconds=round(time.monotonic() - clock, 3),
                    results=draft.results,
                    files=dict(_records(draft.folder)),
                    **context,
                )
                _publish(draft.folder, artifact.folder, manifest)

            try:
                yield draft
                publish("ok")
                shutil.rmtree(kept, ignore_errors=True)
            except NotApplicable as reason:
                publish("not_applicable", str(reason))
                raise
            except PipelineError as error:
                publish("failed", str(error))
                raise
            except OSError as error:
                shutil.rmtree(draft.folder, ignore_errors=True)
                raise StageError(
                    f"{artifact.name}: {error.strerror or error}: {error.filename or parent}.",
                    "Free some space or set outputs=<a folder on another disk>; nothing finished was lost.",
                ) from error
            except BaseException:
                shutil.rmtree(draft.folder, ignore_errors=True)
                raise


class Draft:
    """An artifact in the making: put files into `folder`, the figures that others read into `results`.

    `kept` is a folder, made by who needs it, that an interruption or failure leaves for the next making of the same
    artifact: work that need not be done twice.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        """Fills `folder`."""
        self.folder = folder
        self.kept = kept
        self.results: dict[str, Any] = {}


def _sweep(parent: Path, name: str) -> None:
    """Removes what killed runs left of this artifact."""
    for leftover in parent.glob(f".{name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _records(folder: Path) -> Iterator[tuple[str, FileRecord]]:
    for path in sorted(folder.rglob("*")):
        link = os.readlink(path) if path.is_symlink() else None
        if path.is_file():
            size = path.stat().st_size
            yield (
                path.relative_to(folder).as_posix(),
                FileRecord(size=size, sha256=sha256_of(path), link=link),
            )


def _publish(source: Path, target: Path, manifest: Manifest) -> None:
    partial = source / f"{MANIFEST}.partial"
    with partial.open("w") as file:
        file.write(manifest.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(source / MANIFEST)
    if target.exists():
        retired = source.with_suffix(".old.tmp")
        target.rename(retired)
        source.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        source.rename(target)


def _damage(folder: Path, manifest: Manifest) -> str | None:
    """A file that is gone or has another size than recorded (hashes are checked by `verify`)."""
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != record.size:
            return f"{name} has changed"
    return None


class Digests:
    """SHA-256 of input files, remembered by path, size and modification time: a 16 GB model is read once."""

    def __init__(self, cache: Path) -> None:
        """Keeps what was computed in the file `cache`."""
        self.cache = cache

    def of(self, path: Path) -> str:
        """SHA-256 of `path`, from the cache where the file is unchanged."""
        stat = path.stat()
        mark = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        known = self._read()
        if mark not in known:
            known[mark] = sha256_of(path)
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            partial = self.cache.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known, indent=1))
            partial.rename(self.cache)
        return str(known[mark])

    def of_folder(self, folder: Path) -> dict[str, str]:
        """SHA-256 of each file in `folder` and below, by its path from there."""
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {path.relative_to(folder).as_posix(): self.of(path) for path in paths}

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.cache.read_text()))
        except (OSError, ValueError):
            return {}
