"""What each variant needs of the card and the GPU that `report.constraints` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare.decide.constraints import Constraints, Requirements
from pipeline.compare.memory_fit import fit
from pipeline.compare.roofline.model import Footprint
from pipeline.compare.statements import listing
from pipeline.config import Settings
from pipeline.hardware.gpus import gpu_of
from pipeline.results.base import Missing
from pipeline.results.records import Record, Speed
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.rooflines import unserved


def constraints_of(settings: Settings) -> Constraints:
    """The constraints, with task labels as the table has them."""
    asked = settings.report.constraints
    limits = {clean(task, 60): points for task, points in asked.max_loss_points.items()}
    return Constraints.model_validate({**asked.model_dump(), "max_loss_points": limits})


def requirements_of(
    settings: Settings,
    found: Sequence[Source],
    records: Sequence[Record],
    footprints: Mapping[str, Footprint | Missing],
) -> dict[str, Requirements]:
    """By variant: memory for the weights and one full context, and whether the GPU serves it natively."""
    gpu = gpu_of(settings.report.constraints.hardware or "")
    found_needs = {}
    for source, record in zip(found, records, strict=True):
        memory, of = _memory(settings, footprints[source.name], record)
        there = unserved(source, gpu, native=True) if gpu else ""
        found_needs[source.name] = Requirements(memory_gib=memory, memory_of=of, unserved=there)
    return found_needs


def _memory(settings: Settings, footprint: Footprint | Missing, record: Record) -> tuple[float | Missing, str]:
    """GiB of the card, of which vLLM uses `serve.gpu_memory_utilization`; with what a GPU held beside, if one did."""
    if isinstance(footprint, Missing):
        return footprint, ""
    tokens = settings.serve.max_model_len or footprint.context
    share = settings.serve.gpu_memory_utilization
    seen = fit(record.speed.memory) if isinstance(record.speed, Speed) else Missing(reason="not benchmarked")
    beside = 0 if isinstance(seen, Missing) else seen.overhead_bytes or 0
    needed = footprint.weight_bytes + tokens * footprint.kv_bytes_per_token + beside
    parts = ["weights", f"the KV cache of {tokens:,} tokens"]
    if beside:
        parts.append(f"{beside / 2**30:.1f} GiB as measured beside them")
    return needed / share / 2**30, f"{listing(parts)}, in {share:g} of the card"
