"""Assembly of a report: collect the manifests, compare them, and add setup and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare import compare, judge
from pipeline.compare.decide.frontier import frontiers
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.published.reproduction import reproduce
from pipeline.config import Settings, Stage
from pipeline.errors import PipelineError
from pipeline.hardware.gpus import gpu_of
from pipeline.job import Job
from pipeline.results.bench import machine_of
from pipeline.results.records import Record, Speed
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source, sources
from pipeline.stages.report.collect.calibrations import calibrations
from pipeline.stages.report.collect.engines import engines
from pipeline.stages.report.collect.footprints import of_source
from pipeline.stages.report.collect.past_runs import earlier, side_by_side
from pipeline.stages.report.collect.published import published_tables
from pipeline.stages.report.collect.records import answers_of, record_of, server_of
from pipeline.stages.report.collect.requirements import constraints_of, fits_of, margins_in, requirements_of
from pipeline.stages.report.collect.rooflines import rooflines, study_check
from pipeline.stages.report.collect.sweeps import sweeps
from pipeline.stages.report.collect.variant_cards import card_of
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import plain


def build(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> Report:
    """Return the report of these jobs as data."""
    settings = jobs[0].settings
    found = sources(jobs, failures)
    records = [record_of(source) for source in found]
    comparison = compare(
        records,
        [clean(label, 60) for label in settings.eval.tasks],
        margins_in(settings),
        settings.report.tolerance_percent,
    )
    model, machine = _model(settings), _machine(found, jobs[0])
    gpu = gpu_of(machine)
    footprints = {source.name: of_source(source) for source in found}
    constraints = constraints_of(settings)
    recommendation = recommend(
        comparison, constraints, requirements_of(settings, found, footprints), settings.report.objective
    )
    report = Report(
        title=clean(settings.report.title, 200),
        model=model,
        machine=machine,
        measured=_measured(found),
        setup=_setup(settings, found, model, machine) | _blocks(settings, records) | _devices(records),
        devices={
            record.name: record.speed.devices
            for record in records
            if isinstance(record.speed, Speed) and record.speed.devices
        },
        verdict=judge(comparison, model, machine, recommendation),
        comparison=comparison,
        cards=tuple(card_of(source, jobs[0].workspace.root) for source in found),
        calibrations=calibrations(jobs, found),
        sweeps=sweeps(jobs, found, comparison.tasks),
        engines=engines(found),
        reproductions=tuple(
            reproduce(table, comparison, model, gpu.name if gpu else None) for table in published_tables()
        ),
        frontiers=frontiers(records, comparison, settings.report.margin_percent),
        recommendation=recommendation,
        fits=fits_of(settings, found, footprints),
        rooflines=rooflines(settings, found, records, footprints, comparison, machine),
        roofline_check=study_check(),
        answers=answers_of(records),
    )
    past = side_by_side(earlier(settings), report, settings.report.tolerance_percent)
    return report.model_copy(update={"history": past})


def _text_of(settings: Settings) -> str:
    """Describe the text that the divergence is measured on."""
    text = settings.eval.divergence
    if text is None:
        return "not measured (eval.divergence=null)"
    return (
        f"{text.num_sequences} conversations of at most {text.max_seq_length} tokens, sampled with seed {text.seed}; "
        f"the {text.top_k} likeliest tokens at each position"
    )


def _model(settings: Settings) -> str:
    model = settings.model
    name = f"{model.name} ({model.hub_id})" if model.hub_id and model.path is None else model.name
    return clean(f"{name}, random weights" if model.weights == "random" else name, 120)


def _machine(found: Sequence[Source], job: Job) -> str:
    """Return the machines of the benchmarks, else those of the evaluations, else this one."""
    for stage in (Stage.BENCH, Stage.EVAL):
        names = dict.fromkeys(machine_of(m) for source in found if (m := source.finished(stage)) is not None)
        if names:
            return " and ".join(names)
    return clean(job.hardware.name, 80)


def _blocks(settings: Settings, records: Sequence[Record]) -> dict[str, str]:
    """Return the number of blocks if there are several, and the variants that have fewer."""
    counts = {record.label: record.speed.block_count for record in records if isinstance(record.speed, Speed)}
    requested = max((settings.bench.blocks if counts else 1, *counts.values()))
    if requested == 1:
        return {}
    fewer = ", ".join(f"{label} has {count}" for label, count in counts.items() if count < requested)
    text = f"{requested}, each with a start of every variant's server"
    return {"Blocks": f"{text}; {fewer}" if fewer else text}


def _devices(records: Sequence[Record]) -> dict[str, str]:
    """Return the devices of the benchmarks, where they are known; if there are several, each with its variants."""
    variants: dict[str, list[str]] = {}
    for record in records:
        for device in record.speed.devices if isinstance(record.speed, Speed) else ():
            variants.setdefault(device, []).append(record.label)
    texts = (
        [f"{device}: {', '.join(labels)}" for device, labels in variants.items()] if len(variants) > 1 else [*variants]
    )
    return {"Device": "; ".join(texts)} if texts else {}


def _measured(found: Sequence[Source]) -> str:
    """Return the dates of the results."""
    days = sorted(
        m.started[:10] for s in found for stage in (Stage.BENCH, Stage.EVAL) if (m := s.finished(stage)) is not None
    )
    return "" if not days else clean(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")


def _setup(settings: Settings, found: Sequence[Source], model: str, machine: str) -> dict[str, str]:
    bench, scoring = settings.bench, settings.eval
    versions = dict.fromkeys(
        f"{name} {version}"
        for source in found
        for name, version in server_of(source).versions.items()
        if name.startswith("vllm")
    )
    warmup = bench.num_prompts if bench.warmup_prompts is None else bench.warmup_prompts
    flight = "no limit" if bench.max_concurrency is None else f"{bench.max_concurrency}"
    return {
        "Model": model,
        "Machine": machine,
        "Server": clean(", ".join(versions)) or "not recorded",
        "Load": (
            f"{bench.num_prompts:,} prompts, {bench.repeats} repeats after {warmup:,} warm-up requests; "
            f"request rate {plain(bench.request_rate)}, requests in flight: {flight}"
        ),
        "Scoring": "; ".join(
            f"{clean(label, 60)}: {clean(task.task)} ({clean(task.metric)})" for label, task in scoring.tasks.items()
        )
        + (f"; {scoring.limit} items of each" if scoring.limit else ""),
        "KL from BF16": _text_of(settings),
    }
