"""The manifest of an artifact: schema version, key, status, results and the digest of each file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from typing_extensions import TypedDict

from pipeline.artifacts.keys import Payload, canonical
from pipeline.errors import InputError
from pipeline.json_files import read_json_object

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

Status = Literal["ok", "failed", "not_applicable"]


class FileRecord(BaseModel):
    """Size and digest of a file of an artifact, or of the target of a link."""

    size: int
    sha256: str
    link: str | None = None


class Provenance(TypedDict, total=False):
    """The project's commit, and whether the tree differs from it; empty outside a git checkout."""

    commit: str | None
    dirty: bool


class Manifest(BaseModel):
    """The record of an artifact, written once, last.

    `results` are those of a class of `pipeline.results`, whose `read` gives them back.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    model: str
    variant: str | None
    status: Status
    reason: str | None = None
    key: str
    payload: Payload
    overrides: list[str] = []
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    provenance: Provenance = {}
    started: str
    seconds: float
    results: dict[str, Any] = {}
    files: dict[str, FileRecord] = {}

    @field_validator("payload")
    @classmethod
    def _has_a_key(cls, value: Payload) -> Payload:
        canonical(value)
        return value

    @field_validator("files")
    @classmethod
    def _lie_in_the_folder(cls, value: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
                raise ValueError(f"{name[:100]!r} is no file of that folder")
        return value


class DamagedManifest(InputError):
    """A manifest cannot be read."""


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None without one.

    Raises:
        InputError: on another schema version.
        DamagedManifest: if it is no manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content = read_json_object(path, DamagedManifest, "Remove that folder.")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {content.get('schema_version')}, this release reads {SCHEMA_VERSION}.",
            "Remove that folder, or set outputs=<another folder>.",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedManifest(f"{path} is no manifest: {where}: {first['msg']}.", "Remove that folder.") from None
