"""`bench`: vLLM's own serving benchmark against a fresh server, repeated."""

from __future__ import annotations

from typing import Any

from pipeline.config import Settings, Stage
from pipeline.datasets import identity_of
from pipeline.job import Job
from pipeline.workspace import Draft

SHARED = False


def needs(settings: Settings) -> tuple[Stage, ...]:
    """A checkpoint that passed the gate."""
    return (Stage.QUANTIZE, Stage.VERIFY)


def identity(job: Job) -> dict[str, Any]:
    """The checkpoint, the server, the load and the machine."""
    settings = job.settings.bench
    return {
        "quantize": job.artifact(Stage.QUANTIZE).key,
        "serve": job.serving.identity(job.settings),
        "bench": settings.model_dump(exclude={"name", "dataset"}),
        "dataset": identity_of(settings.dataset, "bench.dataset", job.digests),
        "hardware": job.hardware.model_dump(include={"device", "name", "cores"}),
    }


def make(job: Job, draft: Draft) -> None:
    """Writes vLLM's result JSON of each repeat, and their summary into the manifest."""
    from pipeline.bench.load import bench

    bench(job, draft)
