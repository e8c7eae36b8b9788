"""Checkpoints in the format of bitsandbytes (NF4, LLM.int8), rounded while transformers loads the model. No data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.models.safetensors import copy_companions
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.config import QuantSettings
    from pipeline.job import Job

TITLE = "bitsandbytes"
REQUIRES: tuple[str, ...] = ("bitsandbytes",)
NOTE = ""


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with the weights as stored by bitsandbytes."""
    check(job.settings.quant)
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def check(quant: QuantSettings) -> None:
    """Reject settings that vLLM would not serve as stored: it rounds BF16 parts of a fused layer.

    Raises:
        ConfigError: naming the setting.
    """
    says = "bitsandbytes leaves out lm_head and nothing else"
    base.only_lm_head(quant, says, "Leave quant.ignore out, or choose another engine.")


def _make(job: Job, draft: Draft) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from pipeline.models.loading import forget_generation_config, quiet

    quiet()
    source, folder = job.model.folder, draft.folder / "checkpoint"
    job.progress.detail("rounding while loading")
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        device_map=job.hardware.device,
        quantization_config=BitsAndBytesConfig(**arguments(job.settings.quant)),
        trust_remote_code=job.settings.model.trust_remote_code,
    )
    forget_generation_config(model)
    # No forward pass before this: on a CPU with AVX-512 it repacks NF4 weights, and the scales would be saved shuffled.
    job.progress.detail("writing the checkpoint")
    model.save_pretrained(folder)
    base.carry(source, folder)
    copy_companions(source, folder)


def arguments(quant: QuantSettings) -> dict[str, Any]:
    """Return bitsandbytes' arguments for a scheme."""
    common: dict[str, Any] = {"llm_int8_skip_modules": list(quant.ignore)}
    if quant.scheme == "LLM_INT8":
        return common | {"load_in_8bit": True}
    return common | {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": quant.double_quant,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
