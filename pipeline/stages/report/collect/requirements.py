"""Requirements of each variant on GPU memory and on the GPU of `report.constraints`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare.decide.constraints import Constraints, Requirements
from pipeline.compare.memory_fit import fit
from pipeline.compare.roofline.model import Footprint
from pipeline.compare.statements import listing
from pipeline.compare.tasks import Margins
from pipeline.config import Settings
from pipeline.hardware.gpus import gpu_of
from pipeline.results.base import Missing
from pipeline.results.records import Record, Speed
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.rooflines import unserved


def constraints_of(settings: Settings) -> Constraints:
    """Return the constraints, with task labels as in the table."""
    configured = settings.report.constraints
    limits = {clean(task, 60): points for task, points in configured.max_loss_points.items()}
    return Constraints.model_validate({**configured.model_dump(), "max_loss_points": limits})


def margins_in(settings: Settings) -> Margins:
    """Return the accepted losses, shares: a constraint on a task's loss, else the margin of the settings."""
    margin = settings.report.margin_points
    limits = {clean(task, 60): points / 100 for task, points in settings.report.constraints.max_loss_points.items()}
    if isinstance(margin, dict):
        return {clean(task, 60): points / 100 for task, points in margin.items()} | limits
    if margin is None:
        return limits
    return {clean(task, 60): margin / 100 for task in settings.eval.tasks} | limits


def requirements_of(
    settings: Settings,
    found: Sequence[Source],
    records: Sequence[Record],
    footprints: Mapping[str, Footprint | Missing],
) -> dict[str, Requirements]:
    """Return for each variant the memory for weights and one full context, and the GPU's native support."""
    gpu = gpu_of(settings.report.constraints.hardware or "")
    requirements = {}
    for source, record in zip(found, records, strict=True):
        memory, of = _memory(settings, footprints[source.name], record)
        there = unserved(source, gpu, native=True) if gpu else ""
        requirements[source.name] = Requirements(memory_gib=memory, memory_of=of, unserved=there)
    return requirements


def _memory(settings: Settings, footprint: Footprint | Missing, record: Record) -> tuple[float | Missing, str]:
    """Return the GPU memory in GiB, at `serve.gpu_memory_utilization`, with the measured overhead if there is one."""
    if isinstance(footprint, Missing):
        return footprint, ""
    tokens = settings.serve.max_model_len or footprint.context
    share = settings.serve.gpu_memory_utilization
    measured = fit(record.speed.memory) if isinstance(record.speed, Speed) else Missing(reason="not benchmarked")
    overhead = 0 if isinstance(measured, Missing) else measured.overhead_bytes or 0
    needed = footprint.weight_bytes + tokens * footprint.kv_bytes_per_token + overhead
    parts = ["weights", f"the KV cache of {tokens:,} tokens"]
    if overhead:
        parts.append(f"{overhead / 2**30:.1f} GiB of measured overhead")
    return needed / share / 2**30, f"{listing(parts)}, in {share:g} of the GPU's memory"
