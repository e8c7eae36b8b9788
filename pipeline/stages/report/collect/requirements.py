"""Requirements of each variant on GPU memory and on the GPU of `report.constraints`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.compare.decide.constraints import Constraints, Requirements
from pipeline.compare.roofline.device import Device, Footprint, limits_of
from pipeline.compare.roofline.memory_fit import Fit, fit, required_bytes
from pipeline.config import Settings, Stage
from pipeline.hardware.gpus import Gpu, gpu_of
from pipeline.results.base import Missing
from pipeline.results.bench import machine_of
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.labels import label_in
from pipeline.stages.report.collect.rooflines import unserved

# The GPU of the memory table.
SMALLEST = "RTX 4090"


def constraints_of(settings: Settings) -> Constraints:
    """Return the constraints, with task labels as in the table."""
    configured = settings.report.constraints
    limits = {label_in(settings, task): points for task, points in configured.max_loss_points.items()}
    hardware = None if configured.hardware is None else configured.hardware.name
    return Constraints.model_validate({**configured.model_dump(), "max_loss_points": limits, "hardware": hardware})


def margins_in(settings: Settings) -> Mapping[str, float]:
    """Return the accepted losses, shares: a constraint on a task's loss, else the margin of the settings."""
    margin = settings.report.margin_points
    accepted = settings.report.constraints.max_loss_points
    limits = {label_in(settings, task): points / 100 for task, points in accepted.items()}
    if isinstance(margin, dict):
        return {label_in(settings, task): points / 100 for task, points in margin.items()} | limits
    if margin is None:
        return limits
    return {label_in(settings, task): margin / 100 for task in settings.eval.tasks} | limits


def requirements_of(
    settings: Settings, found: Sequence[Source], footprints: Mapping[str, Footprint | Missing]
) -> dict[str, Requirements]:
    """Return for each variant the memory of each GPU for weights and one full context, and the GPU's native support."""
    gpu = settings.report.constraints.hardware
    requirements = {}
    for source in found:
        memory, of = _memory(settings, _on_one(footprints[source.name], source))
        there = unserved(source, footprints[source.name], gpu) if gpu else ""
        elsewhere = _measured_elsewhere(source, gpu) if gpu else ""
        requirements[source.name] = Requirements(memory_gib=memory, memory_of=of, unserved=there, measured_on=elsewhere)
    return requirements


def _measured_elsewhere(source: Source, gpu: Gpu) -> str:
    """Return the machine of a variant's benchmark if it is not this GPU; empty without a benchmark."""
    made = source.finished(Stage.BENCH)
    machine = "" if made is None else machine_of(made)
    return "" if machine == gpu.name or gpu_of(machine) == gpu else machine


def fits_of(
    settings: Settings, found: Sequence[Source], footprints: Mapping[str, Footprint | Missing]
) -> dict[str, Fit | Missing]:
    """Return for each variant whether vLLM starts on the study's smallest GPU, by the rule of the constraint."""
    gpu = gpu_of(SMALLEST)
    assert gpu is not None
    fits: dict[str, Fit | Missing] = {}
    for source in found:
        footprint, serve = _on_one(footprints[source.name], source), settings.serve
        if reason := unserved(source, footprint, gpu):
            fits[source.name] = Missing(reason=reason)
            continue
        context = 0 if isinstance(footprint, Missing) else _context(settings, footprint)
        fits[source.name] = fit(
            footprint, Device.of(gpu), serve.gpu_memory_utilization, context, max_num_seqs=serve.max_num_seqs
        )
    return fits


def _on_one(footprint: Footprint | Missing, source: Source) -> Footprint | Missing:
    """Return the part of a footprint that is on one of the GPUs that share each layer."""
    return footprint if isinstance(footprint, Missing) else footprint.divided(source.variant.tensor_parallel)


def _context(settings: Settings, footprint: Footprint) -> int:
    """Return the context of the server in tokens; 0 if unknown."""
    return settings.serve.max_model_len or footprint.context


def _memory(settings: Settings, footprint: Footprint | Missing) -> tuple[float | Missing, str]:
    """Return the memory in GiB of the smallest GPU on which vLLM starts, and what is counted."""
    if isinstance(footprint, Missing):
        return footprint, ""
    tokens, serve, constraints = _context(settings, footprint), settings.serve, settings.report.constraints
    # The limits of a step depend on the memory of the GPU.
    hardware = "" if constraints.hardware is None else constraints.hardware.name
    limits = limits_of(hardware, 1024 * (constraints.memory_gib or 0), serve.max_num_seqs)
    needed = required_bytes(footprint, limits, tokens, serve.gpu_memory_utilization)
    of = f"weights, the KV cache of {tokens:,} tokens and the activations of a step"
    return needed / 2**30, f"{of}, in {serve.gpu_memory_utilization:g} of the GPU's memory"
