"""Assembly of a report: collect the manifests, compare them, and add setup and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.artifacts.keys import key_of
from pipeline.compare import compare, judge
from pipeline.compare.decide.decision import decide
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.mixes import mixes
from pipeline.compare.published.reproduction import reproduce
from pipeline.config import Settings, Stage
from pipeline.errors import PipelineError
from pipeline.hardware.gpus import gpu_of
from pipeline.job import Job
from pipeline.models.safetensors import WEIGHTS
from pipeline.results.base import Missing
from pipeline.results.bench import machine_of
from pipeline.results.mix import Mix
from pipeline.results.quantize import QuantizeResult
from pipeline.results.records import Speed
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source, sources
from pipeline.stages.report.collect.budgeted_study import BudgetedStudy
from pipeline.stages.report.collect.calibrations import calibrations
from pipeline.stages.report.collect.deployment import next_command, serve_commands
from pipeline.stages.report.collect.engines import engines
from pipeline.stages.report.collect.footprints import of_source
from pipeline.stages.report.collect.labels import label_in
from pipeline.stages.report.collect.past_runs import earlier, side_by_side
from pipeline.stages.report.collect.published import comparable_tables
from pipeline.stages.report.collect.records import answers_of, records_of
from pipeline.stages.report.collect.requirements import constraints_of, fits_of, margins_in, requirements_of
from pipeline.stages.report.collect.rooflines import rooflines, study_check
from pipeline.stages.report.collect.setup import setup_of
from pipeline.stages.report.collect.sweeps import sweeps
from pipeline.stages.report.collect.variant_cards import card_of
from pipeline.stages.report.document import Report


def build(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> Report:
    """Return the report of these jobs as data."""
    settings = jobs[0].settings
    study = BudgetedStudy.finished(jobs, failures) if settings.has_budget else None
    found = sources(jobs, failures, study)
    records = records_of(found)
    comparison = compare(
        records,
        [label_in(settings, label) for label in settings.eval.tasks],
        margins_in(settings),
        settings.report.tolerance_percent,
    )
    model, machine = _model(settings), _machine(found, jobs[0])
    gpu = found_gpu.name if (found_gpu := gpu_of(machine)) else None
    footprints = {source.name: of_source(source) for source in found}
    constraints = constraints_of(settings)
    recommendation = recommend(
        comparison, constraints, requirements_of(settings, found, footprints), settings.report.objective
    )
    decision = decide(comparison, recommendation)
    report = Report(
        title=clean(settings.report.title, 200),
        model=model,
        weights=_weights(found),
        machine=machine,
        measured=_measured(found),
        setup={"Model": model, "Machine": machine, **setup_of(found, records, comparison)},
        devices={
            record.name: record.speed.devices
            for record in records
            if isinstance(record.speed, Speed) and record.speed.devices
        },
        decision=decision,
        next_command=next_command(settings, decision, [source.name for source in found], jobs[0].overrides),
        serve=serve_commands(settings, found),
        verdict=judge(comparison, model, machine, recommendation),
        comparison=comparison,
        cards=tuple(card_of(source, jobs[0].workspace.root) for source in found),
        calibrations=calibrations(jobs, found),
        sweeps=sweeps(jobs, found, comparison.tasks),
        engines=engines(found),
        reproductions=tuple(
            reproduce(table, comparison, gpu)
            for table in comparable_tables(
                footprints.values(),
                gpu,
                is_random=settings.model.weights == "random",
                hub_id=settings.model.hub_id if settings.model.path is None else None,
            )
        ),
        frontiers=frontiers(records, comparison, settings.report.margin_percent),
        mixes=mixes(_choices(found), comparison),
        recommendation=recommendation,
        fits=fits_of(settings, found, footprints),
        rooflines=rooflines(settings, found, records, footprints, comparison, machine),
        roofline_check=study_check(),
        spending=study.spending() if study else None,
        answers=answers_of(records),
    )
    past = side_by_side(earlier(settings), report, settings.report.tolerance_percent)
    return report.model_copy(update={"history": past})


def _choices(found: Sequence[Source]) -> dict[str, Mix]:
    """Return the choice of each variant that is a mix of formats."""
    made = ((source.name, source.result(QuantizeResult)) for source in found)
    return {name: each.mix for name, each in made if not isinstance(each, Missing) and each.mix is not None}


def _model(settings: Settings) -> str:
    model = settings.model
    name = f"{model.name} ({model.hub_id})" if model.hub_id and model.path is None else model.name
    return clean(f"{name}, random weights" if model.weights == "random" else name, 120)


def _weights(found: Sequence[Source]) -> str:
    """Return a hash of the weights that all variants were made of; empty if no checkpoint tells it."""
    models = (made.payload.get("model") for source in found if (made := source.manifests.get(Stage.QUANTIZE)))
    model = next((each for each in models if each), None)
    if model is None:
        return ""
    # The config, the tokenizer and its template may change with the model staying the same.
    files = {name: digest for name, digest in model.get("files", {}).items() if name.endswith(WEIGHTS)}
    return key_of({**model, "files": files})


def _machine(found: Sequence[Source], job: Job) -> str:
    """Return the machines of the benchmarks, else those of the evaluations, else this one."""
    for stage in (Stage.BENCH, Stage.EVAL):
        names = dict.fromkeys(machine_of(m) for source in found if (m := source.finished(stage)) is not None)
        if names:
            return " and ".join(names)
    return clean(job.hardware.name, 80)


def _measured(found: Sequence[Source]) -> str:
    """Return the dates of the results."""
    days = sorted(
        m.started[:10] for s in found for stage in (Stage.BENCH, Stage.EVAL) if (m := s.finished(stage)) is not None
    )
    return "" if not days else clean(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
