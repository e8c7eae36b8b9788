"""Checkpoints in the compressed-tensors format, made by llm-compressor.

Activation scales of static schemes come from the `calibrate` stage's ranges; algorithms that use activations
(GPTQ, AWQ, SmoothQuant), and NVFP4 for its scale per tensor, run on the same tokens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.config import CalibrationSettings, QuantSettings, Stage
from pipeline.errors import StageError
from pipeline.formats.schemes import SCHEMES
from pipeline.models.architecture import CONFIG, read_config
from pipeline.models.headers import stored_tensors
from pipeline.models.modules import fusion_group, kept_matrices
from pipeline.models.safetensors import copy_companions
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "llm-compressor"
REQUIRES: tuple[str, ...] = ("llmcompressor",)
NOTE = ""
check = base.accept


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` in the compressed-tensors format, with its `recipe.yaml`."""
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import reset_session

    from pipeline.models.rescaling import RESCALING

    quant = job.settings.quant
    job.progress.detail("loading the model")
    model = base.load(job, linear_experts=True)
    data: dict[str, Any] = {"pipeline": "datafree"}
    if quant.takes_tokens:
        sequences = base.sequences(job)
        batches: Any = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in sequences]
        data = {
            "dataset": torch.utils.data.DataLoader(batches, batch_size=None),
            "num_calibration_samples": len(batches),
        }
    job.progress.detail(f"{quant.algorithm} over {data.get('num_calibration_samples', 0)} conversations")
    folder = draft.folder / "checkpoint"
    try:
        with _without_pinning(), _exact_norms(model, moves=quant.algorithm in RESCALING):
            oneshot(
                model=model,
                recipe=recipe(quant, base.kept(model)),
                # It reads the source's config once more.
                trust_remote_code_model=job.settings.model.trust_remote_code,
                **data,
            )
        if quant.static_activations is not None:
            calibration = job.artifact(Stage.CALIBRATE).folder
            set_input_scales(model, calibration, job.settings.calibration, quant.static_activations)
        if quant.format is not None and quant.format.per_tensor and quant.algorithm == "rtn":
            share_weight_scales(model)
        job.progress.detail("writing the checkpoint")
        # Its session knows the recipe, which is stored beside the weights.
        save(model, folder, quant)
    finally:
        # Its global session holds the model, and with it the GPU memory that the server needs next.
        reset_session()
    _keep_routers(job.model.folder, folder)
    copy_companions(job.model.folder, folder)


def recipe(quant: QuantSettings, kept: Sequence[str] = ()) -> list[Any]:
    """Return llm-compressor's modifiers for a scheme and its algorithm.

    Args:
        quant: the scheme.
        kept: Linear modules that stay in BF16, beside those that the settings name.
    """
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    scheme = preset_name_to_scheme(str(quant.scheme).removesuffix("_STATIC"), targets=["Linear"])
    if quant.scheme == "W8A8_STATIC":
        # One scale for all tokens, from calibration; there is no preset for it.
        scheme.input_activations = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=True, dynamic=False)
    if quant.group_size is not None:
        scheme.weights.group_size = quant.group_size
    # As inferred, but for W4AFP8: compressed-tensors 0.19 would leave its integers unpacked, which vLLM cannot load.
    scheme.format = SCHEMES[str(quant.scheme)].layouts["llmcompressor"].name
    ignored = list(dict.fromkeys([*quant.ignore, *kept]))
    common: dict[str, Any] = {"config_groups": {"group_0": scheme}, "ignore": ignored}
    if quant.algorithm == "gptq":
        return [GPTQModifier(dampening_frac=quant.dampening, **common)]
    rounding = QuantizationModifier(**common)
    if quant.algorithm == "awq":
        return [AWQModifier(), rounding]
    if quant.algorithm == "smoothquant":
        return [SmoothQuantModifier(smoothing_strength=quant.smoothing_strength), rounding]
    return [rounding]


def set_input_scales(model: Any, calibration: Path, settings: CalibrationSettings, number: str) -> None:
    """Set the per-tensor activation scale of each quantized Linear from its observed range.

    Args:
        model: model with llm-compressor's quantization parameters on its modules.
        calibration: folder of a finished calibration.
        settings: settings with the technique that derives ranges.
        number: number format of the activations.

    Raises:
        StageError: if a layer was never observed.
    """
    import torch

    from pipeline.models.loading import stored_modules
    from pipeline.stages.calibrate.artifact import read_scales

    scales = read_scales(calibration, settings, number)
    for name, module in stored_modules(model).items():
        scale = getattr(module, "input_scale", None)
        if scale is None:
            continue
        if not scales.get(name, 0) > 0:
            raise StageError(f"{name} saw no activation during calibration.", "Calibrate with other conversations.")
        with torch.no_grad():
            scale.fill_(scales[name])


def save(model: Any, folder: Path, quant: QuantSettings) -> None:
    """Compress and write the weights: quantized ones as rounded, everything else in BF16."""
    import torch
    from compressed_tensors.compressors import ModelCompressor

    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model, skip_compressed=True)
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        # Scales of tensors and channels stay float32, as vLLM keeps them; group scales take the model's precision.
        is_group = quant.effective_group_size is not None and not name.endswith("_global_scale")
        if parameter.dtype == torch.float32 and (is_group or not name.endswith("_scale")):
            parameter.data = parameter.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)


def share_weight_scales(model: Any) -> None:
    """Give Linears that vLLM loads as one the largest of their scales, if a scale is of a whole weight.

    vLLM rounds such weights a second time, to their largest scale (`requantize_with_max_scale`); rounded once with it,
    k_proj of the demo model is 0.027 of its norm away instead of 0.036.
    """
    import torch

    groups: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if getattr(module, "weight_scale", None) is not None:
            groups.setdefault(fusion_group(name), []).append(module.weight_scale)
    with torch.no_grad():
        for scales in groups.values():
            largest = torch.stack([scale.detach().max() for scale in scales]).max()
            for scale in scales:
                scale.fill_(largest)


def _keep_routers(source: Path, folder: Path) -> None:
    """List routers and other matrices that stay in BF16 in config.json: vLLM loads some of them as Linears."""
    path = folder / CONFIG
    config = read_config(folder)
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    names = [*quantization.get("ignore", ()), *kept_matrices(stored_tensors(source))]
    quantization["ignore"] = list(dict.fromkeys(names))
    path.write_text(json.dumps(config, indent=2))


@contextlib.contextmanager
def _exact_norms(model: Any, *, moves: bool) -> Iterator[None]:
    """Keep llm-compressor from rounding norms that multiply by one plus their weight (Gemma, Qwen3-Next).

    It replaces them by norms of 1 + w in the model's type, and stores (1 + w) - 1, which loses up to eight bits of a
    small w. In float32 nothing is lost but the last rounding; where no algorithm moves norms, they are put back.

    Args:
        model: the model.
        moves: whether the algorithm rescales norms.
    """
    import torch
    from compressed_tensors.registry import standardize_lookup_name
    from llmcompressor.modeling.offset_norm import NormCalibrationModule

    replaced = {*NormCalibrationModule.registered_names(), *NormCalibrationModule.registered_aliases()}
    norms = [module for module in model.modules() if standardize_lookup_name(type(module).__name__) in replaced]
    before = [norm.weight.detach().clone() for norm in norms]
    for norm in norms:
        norm.weight.data = norm.weight.data.to(torch.float32)
    yield
    for norm, weight in zip(norms, before, strict=True):
        if not moves:
            norm.weight.data = weight


@contextlib.contextmanager
def _without_pinning() -> Any:
    """Disable pinning of calibration batches, which fails without a GPU in llm-compressor 0.14.0.1."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    pin = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pin
