"""A finished calibration from elsewhere (`calibration.artifact`): accepted for the model that it was made with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.keys import Payload, changed_fields, sha256_of
from pipeline.artifacts.manifest import MANIFEST, Manifest, read_manifest
from pipeline.artifacts.workspace import Draft
from pipeline.errors import InputError
from pipeline.results.base import Missing, read
from pipeline.results.calibration import CalibrateResult

if TYPE_CHECKING:
    from pipeline.job import Job

WAY_OUT = "Make one for this model (calibration.artifact=null), or name the one that belongs to it."


def identity_of_given(job: Job, folder: Path) -> Payload:
    """Return the payload of a finished calibration, which then is this job's.

    Raises:
        InputError: when it holds none, or one of another model, tokenizer or chat template, saying what differs.
    """
    manifest = _manifest(folder)
    differences = changed_fields(manifest.payload.get("model", {}), job.model.identity(), "model")
    if differences:
        raise InputError(
            f"calibration.artifact={folder} was made with another model: {', '.join(differences)}.", WAY_OUT
        )
    wanted, made = job.settings.calibration.enable_thinking, manifest.payload.get("enable_thinking")
    if wanted is not None and wanted != made:
        raise InputError(
            f"calibration.artifact={folder} was made with enable_thinking={made}, not {wanted}.",
            "Make one as the deployment will be, or leave calibration.enable_thinking=null.",
        )
    return manifest.payload


def take_over(job: Job, draft: Draft, folder: Path) -> None:
    """Copy the files of a finished calibration into the draft.

    Raises:
        InputError: when a file is not the one that its manifest lists, or its results cannot be read.
    """
    manifest = _manifest(folder)
    result = read(CalibrateResult, manifest)
    if isinstance(result, Missing):
        raise InputError(f"calibration.artifact={folder}: {result.reason}.", WAY_OUT)
    for name, record in manifest.files.items():
        source = folder / name
        if not source.is_file() or sha256_of(source) != record.sha256:
            raise InputError(
                f"calibration.artifact={folder}: {name} is gone or has changed.", "Fetch the folder again."
            )
        (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, draft.folder / name)
    draft.results = result.model_copy(update={"taken_from": folder.name})


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or manifest.stage != "calibrate" or manifest.status != "ok":
        raise InputError(
            f"calibration.artifact={folder} is no finished calibration (a folder with {MANIFEST}).",
            "Name outputs/<model>/calibrate-<key>.",
        )
    return manifest
