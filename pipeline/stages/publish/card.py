"""The publish folder: links to a checkpoint's files, and the model card."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.compare.comparison import Comparison, Row, TaskCell
from pipeline.compare.words import MEANINGS, legend
from pipeline.config import Settings, Stage
from pipeline.config.file_names import file_name
from pipeline.errors import NotApplicable, StageError
from pipeline.job import Job
from pipeline.results.text import in_markdown
from pipeline.stages.publish.files import CARD, published
from pipeline.stages.publish.hub import repository
from pipeline.stages.report.blocks import Cell
from pipeline.stages.report.collect.deployment import serve_options
from pipeline.stages.report.document import CalibrationFindings, Card, Report
from pipeline.stages.report.sections.calibration import USERS, facts, overlap_text
from pipeline.stages.report.sections.result_cells import ResultColumn
from pipeline.stages.report.sections.results import Results

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

# Fields of a card's metadata that name the licence; the hub needs the others for one that it does not know.
LICENSE = ("license", "license_name", "license_link")


def write(job: Job, report: Report) -> Path:
    """Write the variant's publish folder, replacing an earlier one, and return it.

    Raises:
        NotApplicable: if the variant could not be verified on this machine.
        StageError: if it did not pass verification, or the folder cannot be written.
        InputError: if one of its configs cannot be read.
    """
    if job.unserved:
        raise NotApplicable(f"publish: {job.variant} cannot be loaded here to be verified: {job.unserved}")
    gate = job.artifact(Stage.VERIFY).manifest()
    if gate is None or gate.status != "ok":
        reason = gate.reason if gate is not None and gate.reason else "it has not been verified."
        kind = NotApplicable if gate is not None and gate.status == "not_applicable" else StageError
        raise kind(f"publish: {job.variant} has not passed verification: {reason}")
    text = render(job.settings, report, job.checkpoint, job.model.folder)
    folder = job.workspace.root / job.settings.model.name / file_name(str(job.variant)) / "publish"
    partial = folder.with_name(f".publish.{os.getpid()}.tmp")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in published(job.checkpoint, (job.model.folder, job.model.shape_folder)):
            (partial / path.name).symlink_to(path.resolve())
        (partial / CARD).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        raise StageError(
            f"publish: {error.strerror or error}: {error.filename or folder}.",
            "Free some space or set outputs=<a folder on another disk>.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def render(settings: Settings, report: Report, checkpoint: Path, source: Path) -> str:
    """Return the card of the variant that `settings` describe."""
    from huggingface_hub import ModelCard

    name = str(settings.variant)
    card = next(card for card in report.cards if card.name == name)
    row = next(row for row in report.comparison.rows if row.name == name)
    base = settings.publish.base_model or settings.model.hub_id
    environment = Environment(
        loader=PackageLoader("pipeline.stages.publish", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["md"] = in_markdown
    calibration = next((c for c in report.calibrations if any(use.name == name for use in c.used_by)), None)
    seen = calibration.seen if calibration is not None and isinstance(calibration.seen, CalibrationFindings) else None
    text = environment.get_template("card.md.jinja").render(
        report=report,
        card=card,
        base=base,
        base_name=base or settings.model.name,
        serve=serve_lines(settings, checkpoint),
        served_by=[f"{key} {value}" for key, value in card.versions.items() if key.startswith("vllm")],
        results=list(_results(Results.of(report.comparison), name)),
        calibration={n: v for n, v in facts(calibration, seen).items() if n != USERS} if calibration and seen else {},
        overlaps=[(each.evaluation, each.task, overlap_text(each)) for each in seen.card.overlap] if seen else [],
        sources=seen.card.sources if seen else (),
        emulated=", ".join(row.emulated),
        words=legend(MEANINGS),
    )
    data = metadata(settings, report.comparison, row, card, source)
    return str(ModelCard(f"---\n{data}\n---\n\n{text}"))


def metadata(settings: Settings, comparison: Comparison, row: Row, card: Card, source: Path) -> ModelCardData:
    """Return the card's metadata for the hub: base model, quantization, and evaluation results."""
    from huggingface_hub import EvalResult, ModelCardData

    base = settings.publish.base_model or settings.model.hub_id
    scheme = settings.quant.scheme or f"KV cache {settings.kv_cache.dtype}"
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=cell.task,
            dataset_name=label,
            metric_type=cell.metric,
            metric_value=round(cell.accuracy.value, 4),
            metric_args={
                "items": cell.accuracy.n,
                **({"interval_95": [round(i.low, 4), round(i.high, 4)]} if (i := cell.accuracy.interval) else {}),
            },
        )
        for label in comparison.tasks
        if isinstance(cell := row.tasks[label], TaskCell)
    ]
    more: dict[str, Any] = {**license_of(source)}
    if settings.publish.license:
        more = {"license": settings.publish.license}
    if base:
        more["base_model_relation"] = "quantized"
    return ModelCardData(
        base_model=base,
        pipeline_tag="text-generation",
        tags=["vllm", "quantized", *dict.fromkeys((scheme.lower().replace(" ", "-"), settings.quant.engine))],
        model_name=card.label,
        eval_results=results or None,
        quantization={
            "scheme": scheme,
            "algorithm": settings.quant.algorithm,
            "engine": settings.quant.engine,
            "kv_cache": settings.kv_cache.dtype,
        },
        **more,
    )


def license_of(source: Path) -> dict[str, str]:
    """Return the license in the card of the BF16 checkpoint, by the fields of metadata; empty if it has none."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data = ModelCard.load(source / CARD).data.to_dict()
    # Of a card that names nothing: its text, its fields, what the hub's library makes of them.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, YAMLError):
        return {}
    found = {name: data[name] for name in LICENSE if isinstance(data.get(name), str)}
    return found if "license" in found else {}


def serve_lines(settings: Settings, checkpoint: Path) -> list[str]:
    """Return the commands that serve the published checkpoint as measured, without machine-specific options."""
    serve, name = settings.serve, repository(settings)
    options = serve_options(
        serve, settings.variant, settings.kv_cache.dtype, trust_remote_code=settings.model.trust_remote_code
    )
    file = next(checkpoint.glob("*.gguf"), None)
    if file is None:
        return [shlex.join(["vllm", "serve", name, *options])]
    # vLLM reads the tokenizer and config of a GGUF file from its folder.
    folder = name.rpartition("/")[2]
    return [
        shlex.join(["hf", "download", name, "--local-dir", folder]),
        shlex.join(["vllm", "serve", f"{folder}/{file.name}", *options]),
    ]


def _results(table: Results, name: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a line for each column: title, figure, BF16's figure, difference, and evidence."""
    ours = next(row for row in table.rows if row.name == name)
    baseline = next((row for row in table.rows if row.is_highlighted), None)
    for index, column in enumerate(table.columns):
        reference = baseline.cells[index] if baseline else Cell(missing="BF16 was not measured")
        yield (f"{column.title} ({column.unit})", *_line(ours.cells[index], reference, column))


def _line(cell: Cell, reference: Cell, column: ResultColumn) -> tuple[str, str, str, str]:
    theirs = f"n/a: {reference.missing}" if reference.missing else reference.value
    if cell.missing:
        return (f"n/a: {cell.missing}", theirs, "", "")
    value = f"{cell.value} ({cell.interval})" if cell.interval and column.kind != "divergence" else cell.value
    change = cell.change if column.kind != "divergence" else f"95 %: {cell.around}"
    around = f"{change} ({cell.change_interval})" if cell.change_interval else change
    notes = "; ".join(filter(None, (cell.word, cell.note, cell.evidence)))
    return (value, theirs, around or f"n/a: {cell.change_missing}", notes)
