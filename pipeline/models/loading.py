"""Loading the BF16 checkpoint into torch, for the stages that run or change its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.architecture import has_experts, read_config

if TYPE_CHECKING:
    import torch

    from pipeline.hardware.probe import Hardware


def quiet() -> None:
    """Suppress transformers' progress bars and torch's warnings, since the terminal shows the pipeline's own."""
    import logging

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)


def compute_dtype(hardware: Hardware) -> torch.dtype:
    """Return BF16 if the hardware multiplies it; else float32, which holds all BF16 values and is many times faster."""
    import torch

    return torch.bfloat16 if hardware.has_native_bf16 else torch.float32


def load_model(
    folder: Path,
    hardware: Hardware,
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
    linear_experts: bool = False,
) -> Any:
    """Load a checkpoint in evaluation mode, on the GPU if there is one.

    Args:
        folder: the checkpoint.
        hardware: where the model will be.
        trust_remote_code: run code that comes with the checkpoint.
        dtype: `compute_dtype` unless given.
        linear_experts: make each matrix of an expert a Linear module, as checkpoints and vLLM have it. Transformers
            joins the experts of a layer in one parameter, so that no Linear could be observed or quantized.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    with contextlib.ExitStack() as stack:
        if linear_experts and has_experts(read_config(folder)):
            from llmcompressor.modeling.moe.linearize import load_quantizable_moe

            stack.enter_context(load_quantizable_moe())
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or compute_dtype(hardware),
            trust_remote_code=trust_remote_code,
        )
    return model.to(hardware.device).eval()


@contextlib.contextmanager
def linear_experts_of(config: Any) -> Iterator[None]:
    """Build models of this config with a Linear module for each matrix of an expert; see `load_model`."""
    kind = config.get_text_config().model_type
    if not has_experts(config.get_text_config().to_dict()):
        yield
        return
    from llmcompressor.modeling.moe.conversion_mappings import (
        get_linearize_load_mappings,
        has_linearize_load_mappings,
    )
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
    from transformers.monkey_patching import clear_patch_mapping, register_patch_mapping

    if not has_linearize_load_mappings(kind):
        yield
        return
    experts, *_ = get_linearize_load_mappings(kind)
    register_patch_mapping({experts.__name__: LinearExperts2D.get_linear_experts_cls(experts)})
    try:
        yield
    finally:
        clear_patch_mapping()


@contextlib.contextmanager
def all_experts_calibrated(model: Any) -> Iterator[None]:
    """Send every token through every linear expert; the outputs are still those of the routed experts."""
    if not has_experts(model.config.get_text_config().to_dict()):
        yield
        return
    # It imports llm-compressor, which takes seconds.
    from llmcompressor.modeling.moe.context import moe_calibration_context

    with moe_calibration_context():
        yield


def release_gpu() -> None:
    """Release the GPU memory of models no longer in use, so that a server can allocate it."""
    import gc
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
