"""Rooflines of these variants: on the measured machine, on GPUs that are not installed, and on the study's GPUs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.published.roofline_validation import RooflineCheck, check
from pipeline.compare.roofline.batching import RooflineLoad
from pipeline.compare.roofline.model import Device, Entry, Footprint, MeasuredSpeed, Roofline, roofline
from pipeline.compare.stats.repeats import Change
from pipeline.config import Settings, Stage, Variant
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS, Gpu, gpu_of
from pipeline.results.base import Missing
from pipeline.results.metrics import THROUGHPUT, TPOT
from pipeline.results.records import Record, Speed
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import protocols


def rooflines(
    settings: Settings,
    found: Sequence[Source],
    records: Sequence[Record],
    footprints: Mapping[str, Footprint | Missing],
    comparison: Comparison,
    machine: str,
) -> tuple[Roofline, ...]:
    """Return the roofline of the measured machine, then of each GPU of `report.what_if`; empty without checkpoints."""
    if all(isinstance(footprint, Missing) for footprint in footprints.values()):
        return ()
    load = _load(settings, records)
    context = round(load.mean_input + load.mean_output / 2)
    utilization = settings.serve.gpu_memory_utilization

    def entries(gpu: Gpu | None) -> list[Entry]:
        return [
            Entry(name=s.name, label=s.label, footprint=footprints[s.name], unserved=_unserved(s, gpu)) for s in found
        ]

    alone = {record.name: _tpot_alone(record) for record in records}
    measured = {row.name: _measured(row, alone[row.name]) for row in comparison.rows}
    here = _device(machine, records)
    return (
        roofline(here, entries(None), load, utilization, context, measured),
        *(
            roofline(Device.of(gpu), entries(gpu), load, utilization, context)
            for gpu in GPUS
            if gpu.name in settings.report.what_if and gpu.name != here.name
        ),
    )


def study_check() -> RooflineCheck | None:
    """Compare the roofline with the published tables that have a protocol."""
    for protocol, tables in protocols():
        closest = {row.variants[0] for table in tables for row in table.rows}
        return check(
            [(table, Device.of(gpu)) for table in tables if (gpu := gpu_of(table.gpu))],
            {name: of_config(protocol.config, Variant.parse(name)) for name in closest},
            protocol.load,
            protocol.utilization,
            protocol.assumptions,
        )
    return None


def unserved(source: Source, gpu: Gpu, native: bool = False) -> str:
    """Return why a GPU of the catalogue does not serve a variant, or not natively; empty if it does."""
    engine = str(source.quant.get("engine", ""))
    asked = rules.ServingRequest(
        kernel=source.variant.kernel,
        engine="" if engine == "llmcompressor" else engine,
        group=source.quant.get("group_size"),
    )
    weights = rules.of_scheme(source.quant.get("scheme"), gpu, asked=asked)
    limit = rules.weaker(weights, rules.of_kv_cache(source.kv_dtype, gpu))
    if limit.support == "emulated" and native:
        return f"it is emulated there ({limit.by})"
    return limit.reason if limit.support == "no" else ""


def _unserved(source: Source, gpu: Gpu | None) -> str:
    """Return why a variant is not served: as recorded on this machine, or by the rules for a GPU."""
    if gpu is not None:
        return unserved(source, gpu)
    manifest = source.manifests.get(Stage.BENCH)
    return manifest.reason or "" if manifest is not None and manifest.status == "not_applicable" else ""


def _device(machine: str, records: Sequence[Record]) -> Device:
    """Return the measured machine: a GPU of the catalogue, else a device with the measured memory bandwidth."""
    if gpu := gpu_of(machine):
        return Device.of(gpu)
    read = next((speed.memory_bandwidth for speed in _speeds(records) if speed.memory_bandwidth), None)
    return Device(
        name=machine,
        memory_gb=None,
        bandwidth_gb_s=None if read is None else read / 1e9,
        tflops={},
        source="bandwidth measured by the benchmark",
    )


def _load(settings: Settings, records: Sequence[Record]) -> RooflineLoad:
    """Return the load of the tables with its measured mean lengths; the study's if there is no benchmark."""
    for speed in _speeds(records):
        load = speed.load(speed.headline)
        if load is not None and load.completed and load.input_tokens and load.output_tokens:
            return RooflineLoad(
                requests=load.num_prompts,
                mean_input=sum(load.input_tokens) / load.completed,
                mean_output=sum(load.output_tokens) / load.completed,
                max_concurrency=load.max_concurrency,
                source="mean lengths of the benchmark's requests, with exponential distributions",
            )
    study = next(protocol for protocol, _ in protocols())
    bench = settings.bench
    return study.load.model_copy(update={"requests": bench.num_prompts, "max_concurrency": bench.max_concurrency})


def _speeds(records: Sequence[Record]) -> Iterator[Speed]:
    """Yield the benchmarks of all records, each followed by those of further protocols."""
    for record in records:
        if isinstance(record.speed, Speed):
            yield record.speed
        yield from record.protocols.values()


def _tpot_alone(record: Record) -> float | Missing:
    """Return the mean TPOT of one request at a time, from any protocol."""
    for speed in _speeds([record]):
        for load in speed.loads:
            if load.max_concurrency == 1 and (metric := load.metrics.get(TPOT.name)) and metric.values:
                return statistics.fmean(metric.values)
    return Missing(reason="not measured one request at a time (bench=latency)")


def _measured(row: Row, alone: float | Missing) -> MeasuredSpeed:
    throughput = row.speed.get(THROUGHPUT.name, Missing(reason="not measured"))
    if not row.claims_speed:
        throughput = alone = Missing(reason="emulated here: no speed claim")
    if isinstance(throughput, Missing):
        return MeasuredSpeed(
            throughput_tok_s=throughput, gain_percent=throughput, gain_interval=None, tpot_ms_alone=alone
        )
    change = throughput.change
    return MeasuredSpeed(
        throughput_tok_s=throughput.measured.mean,
        gain_percent=change.percent if isinstance(change, Change) else change,
        gain_interval=change.interval if isinstance(change, Change) else None,
        tpot_ms_alone=alone,
    )
