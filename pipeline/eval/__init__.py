"""`eval`: lm-eval's tasks against the served checkpoint, every sample kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.workspace import Digests, Draft

SHARED = False
# Settings that say how and where the questions are asked; the answers are the same.
NOT_IDENTITY = {"name", "include_path", "num_concurrent", "unsafe_code"}


def needs(settings: Settings) -> tuple[Stage, ...]:
    """A checkpoint that passed the gate."""
    return (Stage.QUANTIZE, Stage.VERIFY)


def identity(job: Job) -> dict[str, Any]:
    """The checkpoint, the server, the tasks and lm-eval's version."""
    from pipeline.provenance import versions

    settings = job.settings.eval
    return {
        "quantize": job.artifact(Stage.QUANTIZE).key,
        "serve": job.serving.identity(job.settings),
        "eval": settings.model_dump(exclude=NOT_IDENTITY),
        "task_files": _task_files(settings.include_path, job.digests),
        "lm_eval": versions().get("lm-eval"),
    }


def _task_files(folder: Path | None, digests: Digests) -> dict[str, str]:
    """SHA-256 of every file below the folder of further tasks, their data included, by its path in there."""
    if folder is None or not folder.is_dir():
        return {}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): digests.of(path) for path in paths}


def make(job: Job, draft: Draft) -> None:
    """Writes lm-eval's results and samples, and each task's figure into the manifest."""
    from pipeline.eval.harness import evaluate

    evaluate(job, draft)
