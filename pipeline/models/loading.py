"""Loading the BF16 checkpoint into torch, for the stages that run or change its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.models.architecture import has_experts, has_towers, read_config

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

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


def model_class(config: Mapping[str, Any]) -> Any:
    """Return transformers' class for a whole checkpoint, with the towers for images and sound that it has.

    `AutoModelForCausalLM` knows few multimodal models, and of some of those the decoder alone.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as MULTIMODAL

    is_multimodal = has_towers(config) and config.get("model_type") in MULTIMODAL
    return AutoModelForMultimodalLM if is_multimodal else AutoModelForCausalLM


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
    quiet()
    model = model_class(read_config(folder)).from_pretrained(
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
    if not _has_experts(model):
        return
    # It imports llm-compressor, which takes seconds. Its own loader imports every image processor of transformers.
    from llmcompressor.modeling.moe.linearize import linearize_moe

    try:
        linearize_moe(model)
    # Whatever it meets in a type that it does not know.
    except Exception as error:
        raise InputError(
            f"llm-compressor makes no Linear modules of the experts of {type(model).__name__} "
            f"({type(error).__name__}: {error}).",
            "Choose formats without calibration or quantization here: bf16, or hub:<owner>/<name> of others.",
        ) from error
    _keep_names(model, getattr(model, "_weight_conversions", None) or ())


def linearize_empty_experts(model: Any) -> None:
    """Replace joined experts of a model without weights by Linear modules without weights."""
    if not _has_experts(model):
        return
    from accelerate import init_empty_weights
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D
    from llmcompressor.modeling.moe.linearize import get_non_linearized_moes

    for name, module in get_non_linearized_moes(model):
        with init_empty_weights(include_buffers=False):
            experts = LinearExperts2D.get_linear_experts_cls(type(module))(getattr(module, "config", model.config))
        model.set_submodule(name, experts)
    _keep_names(model, getattr(model, "_weight_conversions", None) or ())


def _keep_names(model: Any, conversions: Iterable[Any]) -> None:
    """Rename each expert's Linears to those of the checkpoint when stored, instead of joining them."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    stored: list[str] = []
    kept = [each for each in conversions if not isinstance(each, WeightConverter)]
    for each in conversions:
        if isinstance(each, WeightConverter) and each.target_patterns[0].endswith(("gate_up_proj", "down_proj")):
            # `.experts.*.w1.weight`
            stored += [pattern.removesuffix(".weight").rpartition(".")[2] for pattern in each.source_patterns]
    pairs = zip(stored, ("gate_proj", "up_proj", "down_proj"), strict=False)
    renamed = [WeightRenaming(f".{old}.", f".{new}.") for old, new in pairs if old != new]
    model._weight_conversions = [*kept, *renamed]


def note_conversions(model: Any, tensors: Iterable[str]) -> None:
    """Note on a model without weights how transformers would convert a checkpoint's tensors, as on loading them.

    Args:
        model: the model.
        tensors: names of the checkpoint's tensors, by which it is known which of its conversions apply.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    others = [each for each in conversions if not isinstance(each, WeightRenaming)]
    for name in tensors:
        rename_source_key(name, renamings, others)
    model._weight_conversions = [each for each in conversions if each.was_used()]


def stored_names(model: Any) -> Callable[[str], str]:
    """Return a function for the name in its checkpoint of a tensor of a model, which transformers may call otherwise.

    Mixtral's experts are w1, w2 and w3 there, Qwen2.5-VL's decoder lies in `model.layers`, and releases before
    transformers 4.52 stored that of other multimodal models in `language_model.model.layers`.
    """
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    conversions = list(getattr(model, "_weight_conversions", None) or ())
    back = [each.reverse_transform() for each in conversions[::-1] if isinstance(each, WeightRenaming)]
    return lambda name: str(rename_source_key(name, back, [], reverse=True)[0])


def stored_modules(model: Any) -> dict[str, Any]:
    """Return the modules of a model by their names in its checkpoint."""
    stored = stored_names(model)
    return {stored(f"{name}.weight").removesuffix(".weight"): module for name, module in model.named_modules()}


def watch_routing(model: Any, see: Callable[[str, torch.Tensor], None]) -> list[RemovableHandle]:
    """Call a function with what a mixture's router chooses, whenever tokens reach linear experts.

    Args:
        model: with linear experts.
        see: called with the experts' name in the checkpoint, and the experts of each token, of shape (tokens, chosen).

    Returns:
        The hooks; empty for a dense model, and for a router that sends no indices along.
    """
    return [
        experts.register_forward_pre_hook(_note_choice(name, see), with_kwargs=True)
        for name, experts in linear_experts(model).items()
    ]


def linear_experts(model: Any) -> dict[str, Any]:
    """Return the layers' linear experts by their names in the checkpoint; empty for a dense model."""
    if not _has_experts(model):
        return {}
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D

    return {name: module for name, module in stored_modules(model).items() if isinstance(module, LinearExperts2D)}


def _note_choice(name: str, see: Callable[[str, torch.Tensor], None]) -> Any:
    def note(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        for value in (*arguments, *named.values()):
            if getattr(value, "ndim", 0) == 2 and not value.is_floating_point():
                see(name, value)

    return note


def _has_experts(model: Any) -> bool:
    config = getattr(model, "config", None)
    return config is not None and has_experts(config.get_text_config().to_dict())


@contextlib.contextmanager
def all_experts_calibrated(model: Any) -> Iterator[None]:
    """Send every token through every linear expert; the outputs are still those of the routed experts."""
    if not _has_experts(model):
        yield
        return
    # It imports llm-compressor, which takes seconds.
    from llmcompressor.modeling.moe.context import moe_calibration_context

    with moe_calibration_context():
        yield


def release_memory() -> None:
    """Release the memory of models no longer in use, so that the next model or a server can have it."""
    import gc
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        # Modules and their hooks refer to each other.
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
