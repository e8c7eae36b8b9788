"""Loading the BF16 checkpoint into torch, for the stages that run or change its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    folder: Path, hardware: Hardware, *, trust_remote_code: bool = False, dtype: torch.dtype | None = None
) -> Any:
    """Load a checkpoint in evaluation mode, on the GPU if there is one; in `compute_dtype` unless given."""
    from transformers import AutoModelForCausalLM

    quiet()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or compute_dtype(hardware),
        trust_remote_code=trust_remote_code,
    )
    return model.to(hardware.device).eval()


def release_gpu() -> None:
    """Release the GPU memory of models no longer in use, so that a server can allocate it."""
    import gc
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
