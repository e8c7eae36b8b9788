"""`quantize`: a BF16 checkpoint and a scheme (and calibration) -> a checkpoint that vLLM loads.

One file an engine; the engine is a setting of the scheme. The baseline is a link to the checkpoint it came from, and
what others quantized is a folder of links.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any, NotRequired, TypedDict

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.workspace import Draft
from pipeline.config import PROJECT_ROOT, CalibrationSettings, QuantSettings, Settings, Stage
from pipeline.config.quant import OF_MIXES
from pipeline.errors import ConfigError, NotApplicable
from pipeline.job import Job
from pipeline.results.calibration import observations_key
from pipeline.results.quantize import QuantizeResult
from pipeline.serve.support import why_no_kv_scales, why_not_taken
from pipeline.stages.quantize.engines import ENGINES
from pipeline.stages.quantize.experts import rounded_to_nearest

SHARED = False
# Installs the packages of every engine.
INSTALL = "make install" if PROJECT_ROOT else "pip install --no-deps -r requirements/cpu.txt (or cuda.txt)"


class Observer(TypedDict):
    """Technique that derives ranges from observations, and its parameter if it has one."""

    technique: str
    percentile: NotRequired[float]


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Return calibration, if the scheme, its algorithm or the KV cache's scales need data."""
    return (Stage.CALIBRATE,) if settings.needs_calibration else ()


def identity(job: Job) -> Payload:
    """Return the model, the scheme, and the calibration if it matters; of what others made, its content."""
    settings = job.settings
    payload: Payload = {
        "model": job.model.identity(),
        "quant": settings.quant.model_dump(exclude={"name", "title", *(() if settings.quant.is_mixed else OF_MIXES)}),
    }
    if job.existing is not None and not job.existing.is_gguf:
        payload["existing"] = job.existing.identity()
    if settings.needs_calibration:
        payload[Stage.CALIBRATE.value] = observations_key(job.artifact(Stage.CALIBRATE).payload)
    if settings.takes_ranges:
        payload["observer"] = observer(settings.calibration)
    if settings.kv_cache.needs_data:
        payload["kv_cache"] = settings.kv_cache.dtype
    if settings.quant.takes_tokens:
        payload["algorithm_samples"] = settings.calibration.algorithm_samples
    return payload


def observer(calibration: CalibrationSettings) -> Observer:
    """Return how ranges are derived from observations: the technique, and its parameter if it has one."""
    technique = calibration.observer
    if technique == "percentile":
        return {"technique": technique, "percentile": calibration.percentile}
    return {"technique": technique}


def check_engine(quant: QuantSettings) -> None:
    """Reject, before any work, settings that an engine does not support, and an engine that is not installed.

    Only settings and package metadata are read: no engine is imported.

    Raises:
        ConfigError: naming the setting; with the one command that installs what is missing.
    """
    engine = ENGINES[quant.engine]
    engine.check(quant)
    missing = [name for name in engine.REQUIRES if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"quant.engine={quant.engine}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed.",
            f"Install with `{INSTALL}`, or choose another engine of scheme {quant.scheme}.",
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with the scheme's engine, with scales of the KV cache if requested.

    Raises:
        NotApplicable: before any work, if the format cannot store scales of the KV cache, or is not one that is taken.
    """
    from pipeline.models.headers import describe
    from pipeline.models.loading import release_memory

    if reason := why_no_kv_scales(job.settings) or why_not_taken(job.settings.quant):
        raise NotApplicable(f"{reason}.")
    if gpu := _gpu_in_use():
        gpu.reset_peak_memory_stats()
    more: dict[str, object] = {"cast_from": job.model.cast_from}
    if job.settings.quant.is_mixed:
        from pipeline.stages.quantize.mixed import choice

        more["mix"] = choice.write(job, draft)
    # An engine with its own environment returns the versions installed there.
    if versions := ENGINES[job.settings.quant.engine].make(job, draft):
        more["engine"] = versions
    if experts := rounded_to_nearest(job):
        more["rounded_experts"] = experts
    if job.settings.kv_cache.needs_data:
        from pipeline.stages.quantize.kv_scales import add_scales

        more["kv_scales"] = add_scales(job, draft)
    if (gpu := _gpu_in_use()) and (peak := gpu.max_memory_allocated()):
        more["peak_gpu_bytes"] = peak
    # The next variant loads a model of its own.
    release_memory()
    draft.results = QuantizeResult(**describe(draft.folder / "checkpoint"), **more)


def _gpu_in_use() -> Any:
    """Return `torch.cuda`, if this process has begun to use it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
