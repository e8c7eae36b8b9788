"""`verify`: the gate that a checkpoint passes before anybody measures it."""

from __future__ import annotations

from typing import Any

from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.workspace import Draft

SHARED = False


def needs(settings: Settings) -> tuple[Stage, ...]:
    """The checkpoint."""
    return (Stage.QUANTIZE,)


def identity(job: Job) -> dict[str, Any]:
    """The checkpoint, and the server that has to load it."""
    return {"quantize": job.artifact(Stage.QUANTIZE).key, "serve": job.serving.identity(job.settings)}


def make(job: Job, draft: Draft) -> None:
    """Runs every check; the artifact holds each one's outcome.

    Raises:
        StageError: naming the checks that failed.
    """
    from pipeline.verify.gate import verify

    verify(job, draft)
