"""`quantize`: a BF16 checkpoint and a scheme (and calibration) -> a checkpoint that vLLM loads.

One file an engine; the engine is a setting of the scheme. The baseline is a link to the checkpoint it came from.
"""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.workspace import Draft

SHARED = False


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Calibration, where the scheme or its algorithm looks at data."""
    return (Stage.CALIBRATE,) if settings.quant.needs_calibration else ()


def identity(job: Job) -> dict[str, Any]:
    """The model, the scheme, and the calibration where it matters."""
    payload: dict[str, Any] = {
        "model": job.model.identity(),
        "quant": job.settings.quant.model_dump(exclude={"name", "title"}),
    }
    for stage in needs(job.settings):
        payload[stage.value] = job.artifact(stage).key
    if job.settings.quant.algorithm != "rtn":
        payload["algorithm_samples"] = job.settings.calibration.algorithm_samples
    return payload


def make(job: Job, draft: Draft) -> None:
    """Writes `checkpoint/`, made by the engine that the scheme names."""
    engine = job.settings.quant.engine
    importlib.import_module(f"pipeline.quantize.{'link' if engine == 'none' else engine}").quantize(job, draft)
