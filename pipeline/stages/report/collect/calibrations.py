"""The calibrations used by a report's rows, and their observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compare.calibration_ranges import ranges_by_layer, settling
from pipeline.config import Stage
from pipeline.errors import PipelineError
from pipeline.job import Job
from pipeline.results.base import Missing
from pipeline.results.calibration import Site, Summary, read_summary
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.document import (
    Calibration,
    CalibrationFindings,
    CalibrationUse,
    SiteFinding,
    TechniqueFinding,
)
from pipeline.stages.report.number_format import plain

# A mixture-of-experts model has thousands of sites; the page lists those with the largest outlier ratio.
SITES = 300
# The setting of each technique with a parameter.
PARAMETERS = {"percentile": "percentile", "moving_average": "averaging_constant"}


def calibrations(jobs: Sequence[Job], found: Sequence[Source]) -> tuple[Calibration, ...]:
    """Return the distinct calibrations of the rows; if no row has one, that of the settings, if it was made."""
    folders: dict[str, Path] = {}
    users: dict[str, list[CalibrationUse]] = {}
    for source in found:
        manifest = source.finished(Stage.CALIBRATE)
        if manifest is not None:
            folders.setdefault(manifest.key, source.folders[Stage.CALIBRATE])
            users.setdefault(manifest.key, []).append(_use(source, jobs))
    if not folders:
        folders = _of_settings(jobs[0])
    return tuple(_calibration(key, folder, users.get(key, [])) for key, folder in folders.items())


def observer_of(payload: Mapping[str, Any]) -> tuple[str, float | None] | None:
    """Return technique and parameter of a checkpoint with scales from observed ranges; None for others."""
    observer = payload.get("observer")
    if not isinstance(observer, Mapping) or not observer.get("technique"):
        return None
    technique = str(observer["technique"])
    parameter = observer.get(PARAMETERS.get(technique, ""))
    return clean(technique, 60), float(parameter) if isinstance(parameter, int | float) else None


def payload_of(source: Source, stage: Stage, jobs: Sequence[Job]) -> Mapping[str, Any]:
    """Return the payload that identifies a row's artifact, even if it is not made yet."""
    for job in jobs:
        if str(job.variant) == source.name:
            try:
                return job.artifact(stage).payload
            except PipelineError:
                break
    manifest = source.manifests.get(stage)
    return manifest.payload if manifest else {}


def _use(source: Source, jobs: Sequence[Job]) -> CalibrationUse:
    technique, parameter = observer_of(payload_of(source, Stage.QUANTIZE, jobs)) or (None, None)
    setting = "" if parameter is None else plain(parameter)
    return CalibrationUse(name=source.name, label=source.label, technique=technique, setting=setting)


def _of_settings(job: Job) -> dict[str, Path]:
    try:
        artifact = job.artifact(Stage.CALIBRATE)
        manifest = artifact.manifest()
    except PipelineError:
        return {}
    return {artifact.key: artifact.folder} if manifest is not None and manifest.status == "ok" else {}


def _calibration(key: str, folder: Path, users: Sequence[CalibrationUse]) -> Calibration:
    summary = read_summary(folder)
    seen = summary if isinstance(summary, Missing) else _seen(summary, users)
    return Calibration(key=key, used_by=tuple(users), seen=seen)


def _seen(summary: Summary, users: Sequence[CalibrationUse]) -> CalibrationFindings:
    # The techniques in use come first.
    used = [use.technique for use in users if use.technique is not None]
    techniques = sorted(summary.techniques, key=lambda name: name not in used)
    sites = sorted(summary.sites, key=lambda site: -site.outlier_ratio)
    return CalibrationFindings(
        conversations=summary.conversations,
        tokens=summary.tokens,
        dtype=summary.dtype,
        tolerance=summary.tolerance,
        techniques=tuple(_finding(name, summary, users) for name in techniques if name in summary.verdict),
        card=summary.card,
        ranges=ranges_by_layer((site.kind, site.layer, site.largest) for site in summary.sites),
        convergence={name: settling(summary.samples_at, _curves(summary, name)) for name in techniques},
        worst=summary.worst,
        sites=tuple(_site(site) for site in sites[:SITES]),
        site_count=len(sites),
        experts=summary.experts,
    )


def _finding(name: str, summary: Summary, users: Sequence[CalibrationUse]) -> TechniqueFinding:
    verdict = summary.verdict[name]
    return TechniqueFinding(
        technique=name,
        used_by=tuple(use.label for use in users if use.technique == name),
        stable_after=verdict.stable_after,
        moving=verdict.moving,
        text=verdict.text,
    )


def _curves(summary: Summary, technique: str) -> list[tuple[float, ...]]:
    return [site.convergence[technique] for site in summary.sites if technique in site.convergence]


def _site(site: Site) -> SiteFinding:
    return SiteFinding(**{name: getattr(site, name) for name in SiteFinding.model_fields})
