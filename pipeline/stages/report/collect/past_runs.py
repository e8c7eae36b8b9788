"""Earlier runs, read from their `report.json`, and the items' scores beside it where that has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pipeline.artifacts.manifest import read_manifest
from pipeline.compare.history import History, RunName, Snapshot, history
from pipeline.config import Settings, Stage
from pipeline.config.file_names import file_name
from pipeline.errors import InputError, PipelineError
from pipeline.json_files import parse_json
from pipeline.results.base import Missing
from pipeline.results.base import read as read_result
from pipeline.results.eval import EvalResult
from pipeline.results.item_scores import ItemScores
from pipeline.stages.report.collect.labels import task_label
from pipeline.stages.report.collect.records import samples_of
from pipeline.stages.report.document import SCHEMA_VERSION, Report

FILE = "report.json"
WAY_OUT = "Make one with `stage=report` (report.formats has json), and name that file or its outputs folder."


def earlier(settings: Settings) -> tuple[tuple[str, Report], ...]:
    """Return the runs of `report.runs`, then `report.baseline`, each with its display name.

    Raises:
        InputError: if one of them cannot be read, or has another schema version.
    """
    paths = [(f"report.runs.{index}", path) for index, path in enumerate(settings.report.runs)]
    if settings.report.baseline is not None:
        paths.append(("report.baseline", settings.report.baseline))
    return tuple((path.as_posix(), read(setting, path, settings.model.name)) for setting, path in paths)


def read(setting: str, path: Path, model: str) -> Report:
    """Read a stored report: a file, or that of a model in an outputs folder.

    Raises:
        InputError: if it does not exist, is not a report, or has an unknown schema version.
    """
    found = next((p for p in (path / model / "report" / FILE, path / FILE, path) if p.is_file()), None)
    if found is None:
        raise InputError(f"{setting}={path}: there is no {FILE} of model={model}.", WAY_OUT)
    try:
        content = parse_json(found.read_bytes())
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{setting}={path}: {found} is not a report.", WAY_OUT) from None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{setting}={path}: {found} has schema version {version!r}, this release reads {SCHEMA_VERSION}.",
            "Make the report again with this release, or use the release that wrote it.",
        )
    try:
        return _with_answers(Report.model_validate(content), found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{setting}={path}: {found} is not a report of this release ({where}: {first['msg']}).", WAY_OUT
        ) from None


def _with_answers(report: Report, file: Path) -> Report:
    """Add the items' scores of an outputs folder, `<outputs>/<model>/report/report.json`, to a report without them."""
    if report.answers or file.parent.name != "report":
        return report
    found: dict[str, dict[str, ItemScores]] = {}
    for card in report.cards:
        keys = [step.key for step in card.steps if step.stage == Stage.EVAL and step.status == "ok"]
        # A report is a file of somebody else, whose names may be paths.
        if keys and keys[0] and (answers := _stored_answers(file.parent.parent / file_name(card.name), keys[0])):
            found[card.name] = answers
    return report.model_copy(update={"answers": found})


def _stored_answers(variant: Path, key: str) -> dict[str, ItemScores]:
    """Return the items' scores of the evaluation whose key begins so; empty if it is gone."""
    for folder in sorted(variant.glob(f"{Stage.EVAL}-*")):
        try:
            manifest = read_manifest(folder)
        except PipelineError:
            continue
        if manifest is None or not manifest.key.startswith(key):
            continue
        result = read_result(EvalResult, manifest)
        tasks = {} if isinstance(result, Missing) else result.tasks
        scores = {
            task_label(label, task.task): samples_of(manifest, folder, label)["scores"] for label, task in tasks.items()
        }
        return {label: ItemScores.of(each) for label, each in scores.items() if not isinstance(each, Missing)}
    return {}


def side_by_side(runs: Sequence[tuple[str, Report]], now: Report, tolerance_percent: float) -> History | None:
    """Compare earlier runs with this one; None if there is no earlier one."""
    if not runs:
        return None
    snapshots = [_snapshot(name, report) for name, report in (*runs, ("this run", now))]
    return history(snapshots, tolerance_percent)


def _snapshot(name: str, report: Report) -> Snapshot:
    versions: dict[str, str] = {}
    for card in report.cards:
        for package, version in card.versions.items():
            known = versions.setdefault(package, version)
            if version not in known.split(", "):
                versions[package] = f"{known}, {version}"
    return Snapshot(
        run=RunName(
            name=name,
            model=report.model,
            machine=report.machine,
            measured=report.measured,
            load=report.setup.get("Load", ""),
            weights=report.weights,
        ),
        comparison=report.comparison,
        settings={"": report.setup, **{card.name: {**card.recipe, **card.calibration} for card in report.cards}},
        versions=versions,
        devices=report.devices,
        answers=report.answers,
    )
