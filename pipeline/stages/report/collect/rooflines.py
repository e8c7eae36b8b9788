"""Rooflines of these variants: on the measured machine, on GPUs that are not installed, and on the study's GPUs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import reduce

from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.published.roofline_validation import RooflineCheck, check
from pipeline.compare.roofline.batching import Lengths, RooflineLoad
from pipeline.compare.roofline.device import Device, Footprint
from pipeline.compare.roofline.model import Entry, MeasuredSpeed, Roofline, roofline
from pipeline.compare.stats.repeats import Change
from pipeline.config import Settings, Stage, Variant
from pipeline.config.quant import EXISTING, own_format
from pipeline.errors import InputError
from pipeline.formats.schemes import MIXED, SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.gpus import Gpu, gpu_of
from pipeline.models import mix
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult
from pipeline.results.metrics import TPOT
from pipeline.results.records import Record
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import protocols
from pipeline.stages.report.collect.records import BROKEN_ARRAYS

# Requests simulated for each variant and device, in whole repeats; a thousand take some 50 ms.
SIMULATED = 2000


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
    load = _load(settings, found, records)
    context = round(load.mean_input + load.mean_output / 2)
    utilization, sequences = settings.serve.gpu_memory_utilization, settings.serve.max_num_seqs

    def entries(gpu: Gpu | None) -> list[Entry]:
        return [
            Entry(
                name=source.name,
                label=source.label,
                footprint=footprints[source.name],
                is_weight_only=source.family == "weights only",
                unserved=_unserved(source, footprints[source.name], gpu),
                tensor_parallel=source.variant.tensor_parallel,
                data_parallel=source.variant.data_parallel,
            )
            for source in found
        ]

    by_name = {record.name: record for record in records}
    measured = {row.name: _measured(row, by_name[row.name]) for row in comparison.rows}
    here = _device(machine, found, records)
    return (
        roofline(here, entries(None), load, utilization, context, measured, max_num_seqs=sequences),
        *(
            roofline(Device.of(gpu), entries(gpu), load, utilization, context, max_num_seqs=sequences)
            for gpu in settings.report.what_if
            if gpu.name != here.name
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


def unserved(source: Source, footprint: Footprint | Missing, gpu: Gpu) -> str:
    """Return why a GPU of the catalogue does not serve a variant; empty if it does."""
    scheme = source.quant.get("scheme")
    if source.quant.get("engine") == EXISTING and scheme is None:
        return "what serves its format is in no table"
    found = [rules.of_kv_cache(source.kv_dtype, gpu)]
    for each in _schemes(source):
        has_groups = each is not None and SCHEMES[each].group_is_free
        asked = rules.ServingRequest(
            kernel=source.variant.kernel,
            engine=own_format(source.quant),
            group=source.quant.get("group_size") if has_groups else None,
            experts=isinstance(footprint, Footprint) and footprint.experts > 0,
        )
        found.append(rules.of_scheme(each, gpu, asked=asked))
    limit = reduce(rules.weaker, found[::-1])
    return limit.reason if limit.support == "no" else ""


def _schemes(source: Source) -> Sequence[str | None]:
    """Return the number formats of a variant's weights: those that a mix chose, or may choose."""
    scheme = source.quant.get("scheme")
    if scheme != MIXED:
        return [scheme]
    try:
        chosen = mix.formats(source.folders[Stage.QUANTIZE] / "checkpoint").values()
        return sorted({*chosen} - {mix.UNROUNDED}) or [None]
    except (InputError, LookupError):
        return list(source.quant.get("candidates") or [None])


def _unserved(source: Source, footprint: Footprint | Missing, gpu: Gpu | None) -> str:
    """Return why a variant is not served: as recorded on this machine, or by the rules for a GPU."""
    if gpu is not None:
        return unserved(source, footprint, gpu)
    manifest = source.manifests.get(Stage.BENCH)
    return manifest.reason or "" if manifest is not None and manifest.status == "not_applicable" else ""


def _device(machine: str, found: Sequence[Source], records: Sequence[Record]) -> Device:
    """Return the measured machine: its own memory and measured bandwidth, and what the catalogue says of the rest."""
    gpu = gpu_of(machine)
    speeds = (speed for record in records for speed in record.benchmarks)
    read = next((speed.memory_bandwidth for speed in speeds if speed.memory_bandwidth), None)
    device = (
        Device.of(gpu)
        if gpu
        else Device(name=machine, memory_mib=None, bandwidth_gb_s=None, tflops={}, source="not in the catalogue")
    )
    own: dict[str, object] = {"memory_mib": _memory_mib(found, records) or device.memory_mib}
    if read is not None:
        sheet = f"; data sheet: {gpu.bandwidth_gb_s:,.0f} GB/s" if gpu else ""
        own |= {"bandwidth_gb_s": read / 1e9, "source": f"bandwidth measured by the benchmark{sheet}"}
    return device.model_copy(update=own)


def _memory_mib(found: Sequence[Source], records: Sequence[Record]) -> float | None:
    """Return the memory of the measured GPU as its driver reported it; None without a GPU."""
    loads = (load for record in records for speed in record.benchmarks for load in speed.loads)
    for conditions in (each for load in loads for each in load.conditions):
        if conditions.gpu and (total := conditions.gpu.get("total_mib")):
            return total.max
    for source in found:
        manifest = source.finished(Stage.BENCH)
        if manifest is not None and manifest.hardware.get("device") == "cuda":
            # Rounded to a tenth of a GiB.
            return 1024 * float(manifest.hardware["memory_gib"])
    return None


def _load(settings: Settings, found: Sequence[Source], records: Sequence[Record]) -> RooflineLoad:
    """Return the load of the tables with its recorded lengths, else their means; the study's without a benchmark."""
    for source, record in zip(found, records, strict=True):
        for speed in record.benchmarks:
            load = speed.load(speed.headline)
            if load is not None and load.completed and load.input_tokens and load.output_tokens:
                recorded = _recorded(source, load) if speed is record.speed else ()
                means = "mean lengths of the benchmark's requests, with exponential distributions"
                return RooflineLoad(
                    requests=load.num_prompts,
                    mean_input=sum(load.input_tokens) / load.completed,
                    mean_output=sum(load.output_tokens) / load.completed,
                    max_concurrency=load.max_concurrency,
                    recorded=recorded,
                    source="the recorded lengths of each of the benchmark's requests" if recorded else means,
                )
    study = next(protocol for protocol, _ in protocols())
    bench = settings.bench
    return study.load.model_copy(update={"requests": bench.num_prompts, "max_concurrency": bench.max_concurrency})


def _recorded(source: Source, load: LoadResult) -> tuple[Lengths, ...]:
    """Return the lengths of the answered requests of each repeat; empty if a file is missing or unreadable.

    Only files that the manifest lists are opened, and no more repeats than have `SIMULATED` requests.
    """
    manifest, folder = source.manifests[Stage.BENCH], source.folders[Stage.BENCH]
    slug = Load(name=load.name, num_prompts=load.num_prompts).slug
    repeats_read = min(len(load.input_tokens), max(1, SIMULATED // load.num_prompts))
    names = [f"loads/{slug}/repeat-{index}.npz" for index in range(repeats_read)]
    if any(name not in manifest.files for name in names):
        return ()
    repeats = []
    try:
        for name in names:
            requests = Requests.load(folder / name)
            good = requests.good & (requests.input_lens > 0) & (requests.output_lens > 0)
            pairs = zip(requests.input_lens[good].tolist(), requests.output_lens[good].tolist(), strict=True)
            repeats.append(tuple(pairs))
    except BROKEN_ARRAYS:
        return ()
    return tuple(repeats) if all(repeats) else ()


def _tpot_alone(record: Record) -> float | Missing:
    """Return the mean TPOT of one request at a time, from any protocol."""
    for speed in record.benchmarks:
        for load in speed.loads:
            if load.max_concurrency == 1 and (metric := load.metrics.get(TPOT.name)) and metric.values:
                return statistics.fmean(metric.values)
    return Missing(reason="not measured one request at a time (bench=latency)")


def _measured(row: Row, record: Record) -> MeasuredSpeed:
    alone = _tpot_alone(record)
    printed = record.kv_cache_tokens or Missing(reason="the server printed no size of its KV cache")
    throughput = row.speed.get(row.throughput, Missing(reason="not measured"))
    if isinstance(throughput, Missing):
        return MeasuredSpeed(
            throughput_tok_s=throughput,
            gain_percent=throughput,
            gain_interval=None,
            tpot_ms_alone=alone,
            kv_tokens=printed,
        )
    change = throughput.change
    return MeasuredSpeed(
        throughput_tok_s=throughput.measured.mean,
        gain_percent=change.percent if isinstance(change, Change) else change,
        gain_interval=change.interval if isinstance(change, Change) else None,
        tpot_ms_alone=alone,
        kv_tokens=printed,
    )
