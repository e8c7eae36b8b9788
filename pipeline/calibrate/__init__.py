"""`calibrate`: conversations -> tokens -> forward passes -> observers -> ranges.

One artifact for a model, shared by every variant that needs data: the tokens that were shown, and what the observers on
the input of each Linear saw.
"""

from __future__ import annotations

from typing import Any

from pipeline.config import Settings, Stage
from pipeline.datasets import identity_of
from pipeline.job import Job
from pipeline.workspace import Draft

SHARED = True
TOKENS = "tokens.safetensors"
RANGES = "ranges.safetensors"


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Reads the model alone."""
    return ()


def identity(job: Job) -> dict[str, Any]:
    """The model, the conversations and how they are sampled and observed."""
    settings = job.settings.calibration.model_dump(exclude={"name", "dataset", "algorithm_samples"})
    dataset = identity_of(job.settings.calibration.dataset, "calibration.dataset", job.digests)
    return {"model": job.model.identity(), "dataset": dataset, **settings}


def make(job: Job, draft: Draft) -> None:
    """Writes the tokens and the ranges."""
    from pipeline.calibrate.forward import calibrate

    calibrate(job, draft)
