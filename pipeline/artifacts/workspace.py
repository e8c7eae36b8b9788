"""`outputs/`: the location of each artifact, its identity, and its state.

An artifact is a folder with a `manifest.json`. Its key is the hash of what its content depends on and nothing else, so
a changed setting leads to another folder and an unchanged one to the same. A folder is filled under a temporary name
and renamed when complete, with the manifest written last: a folder with a manifest is finished, even after a kill. A
lock per artifact lets several processes share one `outputs/`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts.keys import Payload, canonical, changed_fields, key_of, sha256_of
from pipeline.artifacts.manifest import MANIFEST, FileRecord, Manifest, Status, read_manifest
from pipeline.config.file_names import file_name
from pipeline.errors import InputError, NotApplicable, PipelineError, StageError


def user_cache(name: str, variable: str) -> Path:
    """Return the cache folder shared by all runs of a user; the environment variable `variable` overrides it."""
    return Path(os.environ.get(variable) or Path.home() / ".cache" / "quantization-pipeline" / name)


class Artifact(BaseModel):
    """Identity and location of an artifact, finished or not."""

    model_config = ConfigDict(frozen=True)

    stage: str
    model: str
    variant: str | None
    payload: Payload
    folder: Path

    @property
    def key(self) -> str:
        """Hash of the payload."""
        return key_of(self.payload)

    @property
    def name(self) -> str:
        """Display name, for messages; blocks are counted from 1, and the first has no number."""
        block = f", block {self.payload['block'] + 1}" if "block" in self.payload else ""
        part = f", {self.payload['part']}" if "part" in self.payload else ""
        return f"{self.stage} {self.variant}{block}{part}" if self.variant else self.stage

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None if the artifact is not finished."""
        return read_manifest(self.folder)


class Workspace:
    """The folder of all artifacts."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which need not exist."""
        self.root = root

    def artifact(self, stage: str, model: str, variant: str | None, payload: Payload) -> Artifact:
        """Return the artifact with this identity, finished or not."""
        plain = json.loads(canonical(payload))
        parent = self.root / model / (file_name(variant) if variant else "")
        folder = parent / f"{stage}-{key_of(plain)[:8]}"
        return Artifact(stage=stage, model=model, variant=variant, payload=plain, folder=folder)

    def manifests(self, model: str, stage: str | None = None) -> Iterator[tuple[Path, Manifest]]:
        """Yield every finished artifact of a model, oldest first."""
        finished = []
        for path in (self.root / model).glob(f"**/{stage or '*'}-*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                manifest = read_manifest(path.parent)
                if manifest is not None:
                    finished.append((path.parent, manifest))
        yield from sorted(finished, key=lambda item: item[1].started)

    def kept(self, artifact: Artifact) -> Path:
        """Return the folder of an artifact's partial work, which need not exist."""
        return artifact.folder.parent / f".{artifact.folder.name}.kept"

    def why(self, artifact: Artifact) -> str | None:
        """Return the reason to make the artifact, or None if it is up to date."""
        manifest = artifact.manifest()
        if manifest is not None:
            damage = _damage(artifact.folder, manifest)
            if manifest.status == "ok" and not damage:
                return None
            return damage or f"{manifest.status} before"
        others = [
            other
            for folder, other in self.manifests(artifact.model, artifact.stage)
            if other.variant == artifact.variant
            and folder != artifact.folder
            and all(other.payload.get(name) == artifact.payload.get(name) for name in ("block", "part"))
        ]
        if not others:
            return "not there yet"
        return ", ".join(changed_fields(others[-1].payload, artifact.payload)) or "not there yet"

    @contextmanager
    def claim(self, artifact: Artifact, waiting: Callable[[], None] = lambda: None) -> Iterator[str | None]:
        """Lock an artifact and yield the reason to make it, or None if another process made it in the meantime.

        The lock is reentrant within a thread, so `making` works inside the block.

        Args:
            artifact: the artifact to lock.
            waiting: called once if another process holds the lock.

        Raises:
            InputError: if the folder cannot be created.
        """
        from filelock import FileLock, Timeout

        parent = artifact.folder.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"outputs={self.root}: {error.strerror}.", "Set outputs=<a folder>.") from None
        lock = FileLock(parent / f".{artifact.folder.name}.lock", is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield self.why(artifact)
        finally:
            lock.release()

    @contextmanager
    def making(self, artifact: Artifact, context: Mapping[str, Any]) -> Iterator[Draft]:
        """Lock and fill an artifact; publish it at the end of the block, complete or as a failure.

        A PipelineError is recorded with its reason and raised again; NotApplicable is a status of its own.

        Args:
            artifact: the artifact to make, up to date or not (see `claim`).
            context: further fields of the manifest (versions, hardware, provenance, overrides).
        """
        parent = artifact.folder.parent
        with self.claim(artifact):
            _sweep(parent, artifact.folder.name)
            kept = self.kept(artifact)
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
                    results=draft.results.model_dump(mode="json", exclude_unset=True) if draft.results else {},
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
    """An artifact in the making: put files into `folder`, a class of `pipeline.results` into `results`.

    `kept` is a folder for partial work, created by the stage that uses it. It survives an interruption or failure, for
    the next attempt at the same artifact.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        """Fill `folder`."""
        self.folder = folder
        self.kept = kept
        self.results: BaseModel | None = None


def _sweep(parent: Path, name: str) -> None:
    """Remove the temporary folders that killed runs left of this artifact."""
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
    """Describe the first file that is missing or differs in size (`verify` checks hashes); None without one."""
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != record.size:
            return f"{name} has changed"
    return None
