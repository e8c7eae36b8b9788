"""Results of one variant under several calibrations, collected from the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.manifest import Manifest
from pipeline.compare.calibration_sweep import Choice, Sweep, sweep
from pipeline.config import Stage
from pipeline.job import Job
from pipeline.results.calibration import observations_key
from pipeline.results.records import Record
from pipeline.stages.report.collect.artifacts import Source, conditions
from pipeline.stages.report.collect.calibrations import observer_of, payload_of
from pipeline.stages.report.collect.records import record_of

ManifestIndex = dict[Stage, list[tuple[Path, Manifest]]]
# Fields that a sweep varies in the payloads of a checkpoint and of a calibration; the last one affects only its card.
OF_CHECKPOINT = ("observer", "calibrate")
OF_CALIBRATION = ("num_samples", "averaging_constant", "checked_against")


def sweeps(jobs: Sequence[Job], found: Sequence[Source], tasks: Sequence[str]) -> tuple[Sweep, ...]:
    """Return a table for each row with at least two calibrations scored under the row's conditions."""
    job, stages = jobs[0], (Stage.CALIBRATE, Stage.QUANTIZE, Stage.EVAL)
    baseline = next((record_of(source) for source in found if source.is_baseline), None)
    made: ManifestIndex = {}
    tables = []
    for source in found:
        wanted = {stage: payload_of(source, stage, jobs) for stage in stages}
        if "calibrate" not in wanted[Stage.QUANTIZE] or not wanted[Stage.EVAL]:
            continue
        made = made or {stage: list(job.workspace.manifests(job.settings.model.name, stage.value)) for stage in stages}
        calibrate = wanted[Stage.CALIBRATE] or _behind(wanted[Stage.QUANTIZE], made)
        choices = _choices(source, wanted, calibrate, made)
        if len(choices) > 1:
            current = _choice(wanted[Stage.QUANTIZE], calibrate)
            tables.append(sweep(source.name, source.label, list(choices.items()), baseline, tasks, current))
    return tuple(tables)


def _choices(
    source: Source, wanted: Mapping[Stage, Mapping[str, Any]], calibrate: Mapping[str, Any], made: ManifestIndex
) -> dict[Choice, Record]:
    """Return the results of each choice; the latest if there are several."""
    found: dict[Choice, Record] = {}
    same = (_without(wanted[Stage.QUANTIZE], OF_CHECKPOINT), _without(calibrate, OF_CALIBRATION))
    for folder, checkpoint in made[Stage.QUANTIZE]:
        if checkpoint.variant != str(source.variant.checkpoint) or checkpoint.status != "ok":
            continue
        calibration = _behind(checkpoint.payload, made)
        choice = _choice(checkpoint.payload, calibration)
        this = (_without(checkpoint.payload, OF_CHECKPOINT), _without(calibration, OF_CALIBRATION))
        if choice is None or this != same:
            continue
        for scores_folder, scores in made[Stage.EVAL]:
            is_of_it = scores.payload.get("quantize") == checkpoint.key and scores.status == "ok"
            if is_of_it and conditions(scores.payload) == conditions(wanted[Stage.EVAL]):
                one = Source(source.variant, source.label, source.quant, source.kv_dtype)
                one.manifests = {Stage.QUANTIZE: checkpoint, Stage.EVAL: scores}
                one.folders = {Stage.QUANTIZE: folder, Stage.EVAL: scores_folder}
                # A unique name: several records of one variant are compared.
                found[choice] = record_of(one).model_copy(update={"name": f"{source.name} {checkpoint.key}"})
    return found


def _behind(payload: Mapping[str, Any], made: ManifestIndex) -> Mapping[str, Any]:
    """Return the payload of the calibration that a checkpoint was made from; empty if it is gone."""
    key = payload.get("calibrate")
    found = (m.payload for _, m in reversed(made[Stage.CALIBRATE]) if key in (m.key, observations_key(m.payload)))
    return next(found, {})


def _choice(checkpoint: Mapping[str, Any], calibration: Mapping[str, Any]) -> Choice | None:
    samples = calibration.get("num_samples")
    # Without ranges a calibration still provides tokens to the rounding algorithm.
    technique, parameter = observer_of(checkpoint) or ("tokens only", None)
    # The averaging constant is a setting of the calibration, not of the checkpoint.
    constant = calibration.get("averaging_constant")
    if technique == "moving_average" and parameter is None and isinstance(constant, int | float):
        parameter = float(constant)
    return Choice(technique=technique, parameter=parameter, samples=samples) if isinstance(samples, int) else None


def _without(payload: Mapping[str, Any], names: Sequence[str]) -> Payload:
    return {name: value for name, value in payload.items() if name not in names}
