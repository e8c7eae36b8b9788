"""`outputs/`: the location of each artifact, its identity, and its state.

An artifact is a folder with a `manifest.json`. Its key is the hash of what its content depends on and nothing else, so
a changed setting leads to another folder and an unchanged one to the same. A folder is filled under a temporary name
and renamed when complete, with the manifest written last: a folder with a manifest is finished, even after a kill. A
lock per artifact lets several processes share one `outputs/`; where the storage has no locks that hold, two may make
the same artifact, and the one that is there first stays.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline import interruption
from pipeline.artifacts import drafts, locks
from pipeline.artifacts.keys import Payload, canonical, changed_fields, key_of, sha256_of
from pipeline.artifacts.manifest import MANIFEST, DamagedManifest, FileRecord, Manifest, Status, read_manifest
from pipeline.artifacts.shortages import shortage, storage_shortage
from pipeline.config.file_names import file_name
from pipeline.errors import InputError, NotApplicable, PipelineError, StorageError

# Name of a draft: that of its artifact, and the process that fills it.
DRAFT = re.compile(r"\.(.+)\.\d+(?:\.old)?\.tmp")
# End of the name of an artifact's partial work.
KEPT = ".kept"


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
        """Display name, for messages."""
        return f"{self.stage} {self.variant}{self._which}" if self.variant else self.stage

    @property
    def kind(self) -> str:
        """Display name of the same step of any variant."""
        return f"{self.stage}{self._which}"

    @property
    def _which(self) -> str:
        """Block and part; blocks are counted from 1, and the first has no number."""
        block = f", block {self.payload['block'] + 1}" if "block" in self.payload else ""
        return f"{block}, {self.payload['part']}" if "part" in self.payload else block

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None if the artifact is not finished."""
        return read_manifest(self.folder)


class Workspace:
    """The folder of all artifacts."""

    def __init__(self, root: Path, *, hashes: bool = False) -> None:
        """Use `root`, which need not exist.

        Args:
            root: the folder.
            hashes: compare the content of finished files with the manifests, once each, and not only their sizes.
        """
        self.root = root
        self.hashes = hashes
        self._hashed: set[Path] = set()

    @property
    def cache(self) -> Path:
        """Folder of what several runs would make of their inputs in the same way."""
        return self.root / ".cache"

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
        return artifact.folder.parent / f".{artifact.folder.name}{KEPT}"

    def why(self, artifact: Artifact, absent: str = "") -> str | None:
        """Return the reason to make the artifact, or None if it is up to date.

        Args:
            artifact: the artifact.
            absent: why it is n/a, which needs no second record; empty if it is not.
        """
        try:
            manifest = artifact.manifest()
        except DamagedManifest:
            return f"{MANIFEST} cannot be read"
        if manifest is not None:
            damage = self._damage(artifact.folder, manifest)
            is_absent = manifest.status == "not_applicable" and manifest.reason == absent
            if not damage and (manifest.status == "ok" or is_absent):
                return None
            return damage or f"{manifest.status} before"
        try:
            others = [
                other
                for folder, other in self.manifests(artifact.model, artifact.stage)
                if other.variant == artifact.variant
                and folder != artifact.folder
                and all(other.payload.get(name) == artifact.payload.get(name) for name in ("block", "part"))
            ]
        except DamagedManifest:
            others = []
        if not others:
            return "not there yet"
        return ", ".join(changed_fields(others[-1].payload, artifact.payload)) or "not there yet"

    def _damage(self, folder: Path, manifest: Manifest) -> str | None:
        """Describe the first file that differs from its record, in content only if that is checked; None without."""
        for name, record in manifest.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is gone"
            if path.stat().st_size != record.size:
                return f"{name} has changed: {path.stat().st_size:,} bytes instead of {record.size:,}"
        if dangling := next((path for path in folder.rglob("*") if path.is_symlink() and not path.exists()), None):
            return f"{dangling.relative_to(folder)} is a link to {dangling.readlink()}, which is gone"
        if not self.hashes or folder in self._hashed:
            return None
        for name, record in manifest.files.items():
            if sha256_of(folder / name) != record.sha256:
                return f"{name} has changed: its SHA-256 is another"
        self._hashed.add(folder)
        return None

    @contextmanager
    def claim(self, artifact: Artifact, waiting: Callable[[str], None] = lambda _: None) -> Iterator[str | None]:
        """Lock an artifact and yield the reason to make it, or None if another process made it in the meantime.

        The lock is reentrant within a thread, so `making` works inside the block.

        Args:
            artifact: the artifact to lock.
            waiting: called once with the name of the holder if another process holds the lock.

        Raises:
            StorageError: if `outputs` cannot be written.
        """
        folder = artifact.folder
        with ExitStack() as stack:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locks.locked(drafts.lock_of(folder), waiting))
            except OSError as error:
                unusable = InputError(f"outputs={self.root}: {error.strerror}.", "Set outputs=<a folder>.")
                raise storage_shortage(error, self.root) or unusable from None
            yield self.why(artifact)

    @contextmanager
    def making(self, artifact: Artifact, context: Mapping[str, Any]) -> Iterator[Draft]:
        """Lock and fill an artifact; publish it at the end of the block, complete or as a failure.

        A PipelineError is recorded with its reason and raised again; NotApplicable is a status of its own. What fails
        after a signal that ends the run is not recorded.

        Args:
            artifact: the artifact to make (see `claim`); one that is up to date by then stays.
            context: further fields of the manifest (versions, hardware, provenance, overrides).

        Raises:
            StorageError: if `outputs` cannot be written.
            StageError: if memory runs out.
        """
        folder = artifact.folder
        with self.claim(artifact):
            drafts.sweep(folder)
            draft = Draft(drafts.draft_of(folder), self.kept(artifact))
            clock = _Clock()
            try:
                draft.folder.mkdir()
                yield draft
                self._publish(artifact, draft, clock, context, "ok")
                shutil.rmtree(draft.kept, ignore_errors=True)
            except Exception as error:
                interruption.check()
                shown = shortage(error, artifact.name, artifact.stage, self.root) or error
                if isinstance(shown, PipelineError) and not isinstance(shown, StorageError):
                    self._record_failure(artifact, draft, clock, context, shown)
                if shown is error:
                    raise
                raise shown from error
            finally:
                shutil.rmtree(draft.folder, ignore_errors=True)

    def _record_failure(
        self, artifact: Artifact, draft: Draft, clock: _Clock, context: Mapping[str, Any], error: PipelineError
    ) -> None:
        """Publish what was made, with the reason for which it is not whole."""
        if isinstance(error, NotApplicable):
            status: Status = "not_applicable"
        else:
            status = "failed"
            interruption.check_after_failure()
        try:
            self._publish(artifact, draft, clock, context, status, str(error))
        except OSError as refusal:
            # Not even the manifest could be written, which also explains the failure.
            raise shortage(refusal, artifact.name, artifact.stage, self.root) or refusal from error

    def _publish(
        self,
        artifact: Artifact,
        draft: Draft,
        clock: _Clock,
        context: Mapping[str, Any],
        status: Status,
        reason: str | None = None,
    ) -> None:
        """Complete a draft by its manifest and give it its name, unless a whole artifact has it."""
        manifest = Manifest(
            stage=artifact.stage,
            model=artifact.model,
            variant=artifact.variant,
            status=status,
            reason=reason,
            key=artifact.key,
            payload=artifact.payload,
            started=clock.started.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - clock.began, 3),
            results=draft.results.model_dump(mode="json", exclude_unset=True) if draft.results else {},
            files=dict(_records(draft.folder)),
            **context,
        )
        _write(draft.folder, manifest)
        try:
            self._rename(draft.folder, artifact)
        except OSError as error:
            # Another run, which no lock kept away, was first.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or self.why(artifact) is not None:
                raise

    def _rename(self, source: Path, artifact: Artifact) -> None:
        target, retired = artifact.folder, source.with_suffix(".old.tmp")
        if target.exists():
            if self.why(artifact) is None:
                return
            with suppress(FileNotFoundError):
                target.rename(retired)
            if retired.exists() and self.why(artifact.model_copy(update={"folder": retired})) is None:
                # Another run, which no lock kept away, has made it since it was looked at.
                retired.rename(target)
                return
        source.rename(target)
        shutil.rmtree(retired, ignore_errors=True)

    def sweep(self, model: str) -> list[str]:
        """Remove the drafts that killed runs left, of a model's artifacts and in the cache; return what they were of.

        Those that a running process is making stay.
        """
        found = {
            draft.with_name(name[1])
            for place in (self.root / model, self.cache)
            for draft in place.glob("**/.*.tmp")
            if draft.is_dir() and (name := DRAFT.match(draft.name))
        }
        swept = []
        for folder in sorted(found):
            with locks.held_if_free(drafts.lock_of(folder)) as is_free:
                if is_free:
                    drafts.sweep(folder)
                    swept.append(folder.name)
        for partial in (self.root / model).glob(f"**/.*{KEPT}"):
            self._remove_if_published(partial, partial.with_name(partial.name[1:].removesuffix(KEPT)))
        return swept

    def _remove_if_published(self, partial: Path, folder: Path) -> None:
        """Remove the partial work of an artifact that was published right before its run was killed."""
        with locks.held_if_free(drafts.lock_of(folder)) as is_free, suppress(DamagedManifest):
            manifest = read_manifest(folder) if is_free else None
            if manifest is not None and manifest.status == "ok":
                shutil.rmtree(partial, ignore_errors=True)


class _Clock:
    """The start of a step, as the time of day and for its duration."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.began = time.monotonic()


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


def _records(folder: Path) -> Iterator[tuple[str, FileRecord]]:
    for path in sorted(folder.rglob("*")):
        link = os.readlink(path) if path.is_symlink() else None
        if path.is_file():
            size = path.stat().st_size
            yield (
                path.relative_to(folder).as_posix(),
                FileRecord(size=size, sha256=sha256_of(path), link=link),
            )


def _write(folder: Path, manifest: Manifest) -> None:
    partial = folder / f"{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / MANIFEST)
