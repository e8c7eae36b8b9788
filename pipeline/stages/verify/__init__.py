"""`verify`: the gate that a checkpoint must pass before it is measured."""

from __future__ import annotations

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.workspace import Draft
from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.results.verify import CHECKS

SHARED = False


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Return the checkpoint."""
    return (Stage.QUANTIZE,)


def identity(job: Job) -> Payload:
    """Return the checkpoint, the server that loads it, and the checks: new checks run the gate again.

    A checkpoint that was judged by its files alone is judged again where it can be served.
    """
    return {
        "quantize": job.artifact(Stage.QUANTIZE).key,
        "serve": job.serving.identity(job.settings),
        "checks": list(CHECKS),
        **({"unserved": True} if job.unserved else {}),
    }


def make(job: Job, draft: Draft) -> None:
    """Run every check; the artifact holds each one's outcome.

    Raises:
        StageError: naming the checks that failed.
    """
    from pipeline.stages.verify.gate import verify

    verify(job, draft)
