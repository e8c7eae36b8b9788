"""`verify`: the gate that a checkpoint passes before anybody measures it."""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.workspace import Draft
from pipeline.config import Settings, Stage
from pipeline.job import Job

SHARED = False
# In order; cheap ones first, so that a broken checkpoint is not served.
CHECKS = (
    "files",
    "layers",
    "size",
    "scales",
    "untouched",
    "weights",
    # Before the variant is loaded: there is room for one server at a time.
    "BF16 reference",
    "loads in vLLM",
    "canary prompts",
    "canary log-probabilities",
)


def needs(settings: Settings) -> tuple[Stage, ...]:
    """The checkpoint."""
    return (Stage.QUANTIZE,)


def identity(job: Job) -> dict[str, Any]:
    """The checkpoint, the server that has to load it, and what is checked: a gate with more checks is passed anew."""
    serve = job.serving.identity(job.settings)
    return {"quantize": job.artifact(Stage.QUANTIZE).key, "serve": serve, "checks": list(CHECKS)}


def make(job: Job, draft: Draft) -> None:
    """Runs every check; the artifact holds each one's outcome.

    Raises:
        StageError: naming the checks that failed.
    """
    from pipeline.stages.verify.gate import verify

    verify(job, draft)
