"""Calibrated scales of activations, keys and values, held against the calibration they were made from.

A wrong one loads without an error, and hides below what floating point forgives: with all scales times 100, FP8 keys
and values move the canary by less than its bound.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config import Stage
from pipeline.formats.elements import E2M1, E4M3
from pipeline.models.existing import as_stored
from pipeline.models.headers import quantized_modules
from pipeline.results.calibration import SKETCHES
from pipeline.stages.verify.outcomes import Failed, NotCompared

if TYPE_CHECKING:
    from pipeline.job import Job

# Stored in BF16, which keeps eight bits.
STORED = 2.0**-7
# NVFP4's only places blocks' scales in E4M3's range, and its engine sees what rounded layers put out.
OBSERVED = 1.0
INPUT, GLOBAL, KEYS, VALUES = ".input_scale", ".input_global_scale", ".k_scale", ".v_scale"


class Scale(NamedTuple):
    """Calibrated scale, and the factor less one that the stored one may differ by."""

    value: float
    tolerance: float


def check(job: Job) -> str:
    """Check that every calibrated scale is in the checkpoint, with the calibration's value, and no other is.

    Raises:
        Failed: naming the first that is not.
        NotCompared: if the checkpoint has none.
    """
    folder = job.checkpoint
    stored = _stored(folder)
    settings = job.settings
    if settings.quant.is_existing:
        raise NotCompared("others calibrated it, if it has any")
    quant = as_stored(settings.quant, folder, job.model.folder)
    shown = {name for name in quantized_modules(folder) if (own := quant.of(name).format) and own.shown_tokens}
    if not (settings.takes_ranges or shown):
        if stored:
            raise Failed(f"{min(stored)} is a calibrated scale, and none of its formats has one")
        raise NotCompared("its formats have no calibrated scale of activations")
    calibration = job.artifact(Stage.CALIBRATE).folder
    if not (calibration / SKETCHES).is_file():
        raise NotCompared("the calibration that it was made from is no longer there")
    wanted = _wanted(job, calibration, shown)
    if missing := wanted.keys() - stored.keys():
        raise Failed(f"{len(missing)} calibrated scales are missing, {min(missing)} first")
    if extra := stored.keys() - wanted.keys():
        raise Failed(f"{len(extra)} scales are not in the calibration, {min(extra)} first")
    for name, (value, tolerance) in sorted(wanted.items()):
        if not value / (1 + tolerance) <= stored[name] <= value * (1 + tolerance):
            raise Failed(f"{name} is {stored[name]:.4g}, {value:.4g} by the calibration")
    return f"{len(wanted)} scales of activations, keys and values are the calibration's"


def _wanted(job: Job, calibration: Path, shown: set[str]) -> dict[str, Scale]:
    """Return the calibrated scales of a variant by tensor; `shown` are modules whose engine saw tokens for theirs."""
    from pipeline.stages.calibrate.artifact import read_scales

    settings, modules, found = job.settings, quantized_modules(job.checkpoint), dict[str, Scale]()
    if (number := settings.quant.static_activations) is not None:
        scales = read_scales(calibration, settings.calibration, number)
        found |= {f"{name}{INPUT}": Scale(value, STORED) for name, value in scales.items() if name in modules}
    found |= _global_scales(calibration, shown, settings.calibration.algorithm_samples) if shown else {}
    if settings.kv_cache.needs_data:
        scales = read_scales(calibration, settings.calibration, settings.kv_cache.dtype)
        found |= {
            f"{name}_scale": Scale(value, STORED) for name, value in scales.items() if name.endswith((".k", ".v"))
        }
    return found


def _global_scales(calibration: Path, modules: set[str], samples: int | None) -> dict[str, Scale]:
    """Return NVFP4's by the samples that its engine reads: the largest E4M3 times E2M1 over the largest input."""
    from safetensors import safe_open

    from pipeline.stages.calibrate.artifact import SITES

    found: dict[str, Scale] = {}
    with safe_open(calibration / SKETCHES, framework="pt") as file:
        for module, site in json.loads(file.metadata()[SITES]).items():
            if module in modules:
                largest = float(file.get_tensor(f"{site}.extremes")[:samples].abs().max())
                found[f"{module}{GLOBAL}"] = Scale(E4M3.largest * E2M1.largest / largest, OBSERVED)
    return found


def _stored(folder: Path) -> dict[str, float]:
    from pipeline.models.dequantize import Tensors

    tensors = Tensors(folder)
    names = (name for name in tensors.files if name.endswith((INPUT, GLOBAL, KEYS, VALUES)))
    return {name: float(tensors[name].float().max()) for name in names}
