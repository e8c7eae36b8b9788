"""Loading the BF16 checkpoint into torch, for the stages that run or change its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.architecture import has_experts

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
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or compute_dtype(hardware),
        trust_remote_code=trust_remote_code,
    )
    forget_generation_config(model)
    if linear_experts:
        _linearize_experts(model)
    return model.to(hardware.device).eval()


def forget_generation_config(model: Any) -> None:
    """Replace a model's generation config, which would keep it from being saved where it names what it does not use.

    The file itself travels beside the weights, whatever is in it.
    """
    if hasattr(model, "generation_config"):
        model.generation_config = type(model.generation_config)()


def _linearize_experts(model: Any) -> None:
    """Replace joined experts by Linear modules, which are stored under the names that the checkpoint had."""
    if not has_experts(model.config.get_text_config().to_dict()):
        return
    # It imports llm-compressor, which takes seconds. Its own loader imports every image processor of transformers.
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    linearize_moe(model)
    conversions = list(getattr(model, "_weight_conversions", None) or ())
    stored: list[str] = []
    for each in conversions:
        if isinstance(each, WeightConverter) and each.target_patterns[0].endswith(("gate_up_proj", "down_proj")):
            # `.experts.*.w1.weight`
            stored += [pattern.removesuffix(".weight").rpartition(".")[2] for pattern in each.source_patterns]
    pairs = zip(stored, ("gate_proj", "up_proj", "down_proj"), strict=False)
    renamed = [WeightRenaming(f".{old}.", f".{new}.") for old, new in pairs if old != new]
    kept = [each for each in conversions if not isinstance(each, WeightConverter)]
    model._weight_conversions = [*kept, *renamed]


def linearize_empty_experts(model: Any) -> None:
    """Replace joined experts of a model without weights by Linear modules without weights."""
    if not has_experts(model.config.get_text_config().to_dict()):
        return
    from accelerate import init_empty_weights
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
    from llmcompressor.modeling.moe.linearize import get_non_linearized_moes

    for name, module in get_non_linearized_moes(model):
        with init_empty_weights(include_buffers=False):
            experts = LinearExperts2D.get_linear_experts_cls(type(module))(getattr(module, "config", model.config))
        model.set_submodule(name, experts)


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
