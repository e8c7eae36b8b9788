"""Checkpoints in AWQ's own format (`quant_method: awq`), made by AutoAWQ, the project that the format is named after.

AutoAWQ cuts its text into blocks of one length. Here each conversation stays a sequence of its own: the search for
scales runs over the same tokens, with the same context, as in every other engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "AutoAWQ"
REQUIRES: tuple[str, ...] = ("autoawq",)
NOTE = "no longer developed"
check = base.accept


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with INT4 weights and zero points, in AWQ's interleaved order."""
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    import torch
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from huggingface_hub import save_torch_state_dict

    from pipeline.stages.quantize.engines.autoawq_quantizer import Quantizer

    quant, kind = job.settings.quant, job.model.config.get("model_type")
    job.progress.detail("loading the model")
    # AutoAWQ is written for float16, in which most CPUs are many times slower than in their native types.
    model = base.load(job, torch.float16 if job.hardware.device == "cuda" else None)
    model.config.use_cache = False
    kept = base.kept(model, quant.ignore)
    data = base.sequences(job)
    job.progress.detail(f"awq over {len(data)} conversations")
    base.seed(job.settings.calibration.seed)
    awq = AWQ_CAUSAL_LM_MODEL_MAP[kind](model, kind, False, model.config, None, None)
    awq.quantize(
        quant_config={"zero_point": True, "q_group_size": quant.effective_group_size, "w_bit": 4, "version": "gemm"},
        calib_data=data,
        quantizer_cls=type("Quantizer", (Quantizer,), {"kept": frozenset(kept)}),
    )
    job.progress.detail("writing the checkpoint")
    folder = draft.folder / "checkpoint"
    folder.mkdir()
    save_torch_state_dict(model.state_dict(), folder, shared_tensors_to_discard=_tied(model))
    base.settle(job.model.folder, folder, base.configuration(quant, kept))


def _tied(model: Any) -> list[str]:
    return list(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else []
