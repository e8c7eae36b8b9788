"""Checkpoints in GPTQ's and AWQ's own formats, rounded by AutoRound: signed gradient descent on each block's error.

Source: Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs", 2023.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.errors import StageError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    import torch

    from pipeline.job import Job

TITLE = "AutoRound"
REQUIRES: tuple[str, ...] = ("auto-round",)
NOTE = "the most time; with a C++ compiler it compiles its steps, a minute the first time"
check = base.accept
# AutoRound's own defaults.
ITERATIONS = 200
BATCH = 8


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with INT4 or INT8 weights: with zero points in AWQ's format, without in GPTQ's."""
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    import torch._dynamo
    from auto_round import AutoRound

    quant = job.settings.quant
    symmetric = quant.format is not None and not quant.format.zero_points
    job.progress.detail("loading the model")
    model = base.load(job)
    kept = base.kept(model, quant.ignore)
    data = padded(base.sequences(job), model.config.pad_token_id or 0)
    job.progress.detail(f"{quant.algorithm} over {len(data)} conversations")
    base.seed(job.settings.calibration.seed)
    rounding = AutoRound(
        model,
        tokenizer=load_tokenizer(job.model.folder, trust_remote_code=job.settings.model.trust_remote_code),
        scheme=f"W{quant.whole_bits}A16",
        sym=symmetric,
        group_size=quant.effective_group_size,
        layer_config={name: {"bits": 16} for name in kept if name != "lm_head"},
        dataset=data,
        nsamples=len(data),
        seqlen=1,  # samples of fewer tokens would be left out
        iters=ITERATIONS,
        batch_size=min(BATCH, len(data)),
        seed=job.settings.calibration.seed,
        device_map="cuda:0" if job.hardware.device == "cuda" else "cpu",
        # A CPU without native BF16 is faster in float32, and exact.
        amp=job.hardware.has_native_bf16,
        # By default it compiles the steps; without a C++ compiler it would retry repeatedly.
        enable_torch_compile=None if shutil.which(os.environ.get("CXX", "g++")) else False,
    )
    job.progress.detail(f"{quant.algorithm} over {len(data)} conversations, {ITERATIONS} steps a block")
    made = draft.folder / "autoround"
    # Code that fails to compile (Python's headers may be missing) runs uncompiled.
    with torch._dynamo.config.patch(suppress_errors=True):
        rounding.quantize_and_save(str(made), format="auto_gptq" if symmetric else "auto_awq")
    found = sorted(made.glob("**/config.json"))
    if len(found) != 1:
        raise StageError(f"AutoRound wrote {len(found)} checkpoints, not one.", "Its log is quantize.log.")
    job.progress.detail("writing the checkpoint")
    folder = draft.folder / "checkpoint"
    found[0].parent.rename(folder)
    if made.is_dir():
        made.rmdir()
    for leftover in ("quantization_config.json", "quantize_config.json"):
        (folder / leftover).unlink(missing_ok=True)
    base.settle(job.model.folder, folder, base.configuration(quant, kept))


def padded(sequences: list[torch.Tensor], token: int) -> list[dict[str, torch.Tensor]]:
    """Pad sequences to one length, as AutoRound's batches require; its error masks the padding out."""
    import torch

    longest = max(ids.shape[1] for ids in sequences)

    def filled(ids: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=value)

    return [{"input_ids": filled(ids, token), "attention_mask": filled(torch.ones_like(ids), 0)} for ids in sequences]
