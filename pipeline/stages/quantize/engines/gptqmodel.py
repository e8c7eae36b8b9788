"""Checkpoints in GPTQ's and AWQ's own formats (`quant_method: gptq` or `awq`), made by GPTQModel."""

from __future__ import annotations

import contextlib
import os
import shutil
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.config import QuantSettings
from pipeline.models.architecture import has_experts
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "GPTQModel"
REQUIRES: tuple[str, ...] = ("gptqmodel",)
NOTE = ""


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with INT4 or INT8 weights in groups, in the order of the inputs."""
    check(job.settings.quant)
    with base.captured(job, draft, TITLE):
        # Its thread pools request more workers than a small machine has cores, and fail.
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, min(job.hardware.cores, 8))))
        with _surviving():
            _make(job, draft)


def check(quant: QuantSettings) -> None:
    """Reject settings that GPTQModel does not support.

    Raises:
        ConfigError: naming the setting.
    """
    if quant.algorithm == "awq":
        # It scales sibling modules together, and scales the wrong ones if one of them is ignored (7.6.0).
        says = "AWQ by quant.engine=gptqmodel leaves out lm_head and nothing else"
        base.only_lm_head(quant, says, "Choose quant.engine=autoawq, which makes the same format.")


def _make(job: Job, draft: Draft) -> None:
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.looper import loop_processor

    from pipeline.models.loading import compute_dtype, quiet

    quiet()
    quant = job.settings.quant
    awq = quant.algorithm == "awq"
    # It writes a table beside its log into the current folder.
    loop_processor._PROJECT_LOG_DIR = tables = draft.folder / "tables"
    job.progress.detail("loading the model")
    base.seed(job.settings.calibration.seed)
    model = GPTQModel.load(
        str(job.model.folder.resolve()),
        QuantizeConfig(**arguments(quant, job.hardware.device), **_every_expert(job)),
        # Its AWQ supports 16-bit types only.
        dtype=torch.float16 if awq else compute_dtype(job.hardware),
        trust_remote_code=job.settings.model.trust_remote_code,
    )
    kept = base.kept(model.model, quant.ignore)
    model.quantize_config.dynamic = base.excluded(kept)
    data = base.sequences(job)
    job.progress.detail(f"{quant.algorithm} over {len(data)} conversations")
    with torch.inference_mode(False):
        model.quantize(
            [{"input_ids": ids[0].tolist(), "attention_mask": [1] * ids.shape[1]} for ids in data],
            # One conversation at a time, in order: none is padded, dropped or joined.
            batch_size=1,
            calibration_sort=None,
            calibration_data_min_length=0,
            backend=BACKEND.AWQ_TORCH if awq else BACKEND.GPTQ_TORCH,
        )
    job.progress.detail("writing the checkpoint")
    shutil.rmtree(tables, ignore_errors=True)
    folder = draft.folder / "checkpoint"
    model.save(str(folder))
    for leftover in ("quantize_config.json", "quant_log.csv"):
        (folder / leftover).unlink(missing_ok=True)
    base.settle(job.model.folder, folder, base.configuration(quant, kept))


def _every_expert(job: Job) -> dict[str, Any]:
    """Return the argument that shows every expert of a mixture every token; empty for a dense model."""
    if not has_experts(job.model.config):
        return {}
    from gptqmodel.quantization.config import ExpertsRoutingBypass, MoEConfig

    return {"moe": MoEConfig(routing=ExpertsRoutingBypass())}


@contextlib.contextmanager
def _surviving() -> Iterator[None]:
    """Keep a failed task of GPTQModel's threads from aborting the process; its exception ends this variant only."""
    from gptqmodel.utils.threadx import _DeviceWorker

    abort = _DeviceWorker._abort_process

    def pass_on(self: Any, error: BaseException) -> None:
        # An error before the first task is not reported; waiting for its result would hang.
        if any(frame.name == "_run_warmup" for frame in traceback.extract_tb(error.__traceback__)):
            abort(self, error)

    _DeviceWorker._abort_process = pass_on
    try:
        yield
    finally:
        _DeviceWorker._abort_process = abort


def arguments(quant: QuantSettings, device: str) -> dict[str, Any]:
    """Return GPTQModel's arguments for a scheme."""
    common: dict[str, Any] = {
        "bits": quant.whole_bits,
        "group_size": quant.effective_group_size,
        "device": device,
        "offload_to_disk": False,
        # The default packer is compiled on first use, for a minute, and needs a compiler.
        "pack_impl": "original",
    }
    if quant.algorithm == "awq":
        return common | {"method": "awq", "format": "gemm", "sym": False}
    return common | {
        "method": "gptq",
        "format": "gptq",
        "sym": True,
        # Groups are consecutive inputs: vLLM dropped support for activation order.
        "desc_act": False,
        "damp_percent": quant.dampening,
    }
