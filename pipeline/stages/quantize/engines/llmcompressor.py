"""Checkpoints in the compressed-tensors format, made by llm-compressor.

Activation scales of static schemes come from the `calibrate` stage's ranges; algorithms that use activations
(GPTQ, AWQ, SmoothQuant), and NVFP4 for its scale per tensor, run on the same tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.config import CalibrationSettings, ChosenSettings, QuantSettings, Stage
from pipeline.errors import NotApplicable, StageError
from pipeline.formats.schemes import AWQ, GPTQ, RESCALING, SCHEMES, SMOOTHQUANT, SMOOTHQUANT_GPTQ
from pipeline.models import mix
from pipeline.models.architecture import has_experts, read_config, text_config
from pipeline.models.baseline import write_config
from pipeline.models.headers import stored_tensors
from pipeline.models.modules import fusion_group, kept_matrices
from pipeline.models.safetensors import copy_companions
from pipeline.models.tokenizer import load_tokenizer
from pipeline.stages.quantize.engines import base
from pipeline.stages.quantize.support import why_not_made

if TYPE_CHECKING:
    import torch

    from pipeline.hardware.probe import Hardware
    from pipeline.job import Job

TITLE = "llm-compressor"
REQUIRES: tuple[str, ...] = ("llmcompressor",)
NOTE = ""
check = base.accept
# Tokens, with padding, of a batch of AWQ's search, which forwards every batch 21 times for each norm. Small ones leave
# a GPU idle between its kernels: with 4096 tokens, SmolLM2 takes 2.5 times GPTQ's time on an H200.
BATCH_TOKENS, LARGE_BATCH_TOKENS = 4096, 16384
# llm-compressor keeps the scores of attention: 4 GiB for 32 heads.
BATCH_SCORES = 2**24
# It computes the logits of a batch as well, in BF16 and float32, for which this share of a GPU's memory is left.
LOGITS_BYTES, LOGITS_SHARE = 6, 1 / 16
# Tokens whose answers prove that a mapping leaves a model as it is.
PROVED_TOKENS = 64
# Where config.json leaves it to transformers (Gemma 3).
LARGE_VOCABULARY = 2**18


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` in the compressed-tensors format, with its `recipe.yaml`."""
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    from llmcompressor import oneshot
    from llmcompressor.core import reset_session

    from pipeline.models.mappings import decoder_mappings

    quant, folder = job.settings.quant, draft.folder / "checkpoint"
    if quant.is_mixed:
        quant = mix.chosen(quant, folder)
    job.progress.detail("loading the model")
    model = base.load(job, linear_experts=True)
    rescaling, trust = RESCALING.get(quant.algorithm), job.settings.model.trust_remote_code
    mappings = decoder_mappings(model, rescaling) if rescaling else None
    data = _calibration(job, quant)
    if rescaling:
        _prove_mapping(job, model, rescaling)
    try:
        with _without_pinning(), _exact_norms(model, moves=rescaling is not None):
            oneshot(
                model=model,
                recipe=recipe(quant, base.kept(model, quant.ignore), mappings, _names(model)),
                # It reads the source's config once more.
                trust_remote_code_model=trust,
                **data,
            )
        if quant.static_activations is not None:
            calibration = job.artifact(Stage.CALIBRATE).folder
            set_input_scales(model, calibration, job.settings.calibration, quant.static_activations)
        if quant.format is not None and quant.format.per_tensor and quant.algorithm == "rtn":
            share_weight_scales(model)
        job.progress.detail("writing the checkpoint")
        # Its session knows the recipe, which is stored beside the weights.
        names = _names(model)
        save(model, folder)
    finally:
        # Its global session holds the model, and with it the GPU memory that the server needs next.
        reset_session()
    base.carry(job.model.folder, folder)
    _settle_config(job.model.folder, folder, names)
    copy_companions(job.model.folder, folder)


def _prove_mapping(job: Job, model: Any, algorithm: str) -> None:
    """Refuse a mapping that makes another model of this one.

    Raises:
        NotApplicable: with the reason.
    """
    from pipeline.models.mapping_proof import EXPLAINED, moved_by

    # Before a download, names of tensors may not have been known.
    reason = why_not_made(job.settings, job.model.config, job.model.names)
    if not reason:
        job.progress.detail("trying the mapping")
        tokens = base.sequences(job)[0][:, :PROVED_TOKENS].to(model.device)
        moved = moved_by(model, job.model.config, algorithm, tokens)
        if moved < EXPLAINED:
            return
        reason = (
            f"quant.algorithm={job.settings.quant.algorithm}: llm-compressor's mapping of norms and Linears makes "
            f"another model of this one, whose logits are {moved:.2f} of their length away; choose "
            "quant.algorithm=gptq or rtn"
        )
    raise NotApplicable(f"{reason}.")


def _names(model: Any) -> dict[str, str]:
    """Return the names of a model's Linears in the checkpoint -> in the model."""
    import torch

    from pipeline.models.loading import stored_names

    stored = stored_names(model)
    linears = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {stored(f"{name}.weight").removesuffix(".weight"): name for name in linears}


def _calibration(job: Job, quant: QuantSettings) -> dict[str, Any]:
    """Return `oneshot`'s arguments for the calibration data of a job."""
    import torch

    if not quant.takes_tokens:
        job.progress.detail("rounding")
        return {"pipeline": "datafree"}
    sequences = base.sequences(job)
    job.progress.detail(f"{quant.algorithm} over {len(sequences)} conversations")
    # A router sends padding to experts like any token, and llm-compressor has no mask behind it.
    is_padded = quant.algorithm == AWQ and not has_experts(job.model.config)
    batches: Any = [whole(ids) for ids in sequences]
    if is_padded:
        vocabulary = text_config(job.model.config).get("vocab_size", LARGE_VOCABULARY)
        batches = padded(sequences, batch_tokens(job.hardware, vocabulary))
    return {
        "dataset": torch.utils.data.DataLoader(batches, batch_size=None),
        "num_calibration_samples": len(batches),
        "use_loss_mask": is_padded,
        # It would look for one of images and sound.
        "processor": load_tokenizer(job.model.folder, trust_remote_code=job.settings.model.trust_remote_code),
    }


def batch_tokens(hardware: Hardware, vocabulary: int) -> int:
    """Return the tokens of a batch of AWQ's search, with its padding, for a vocabulary of so many tokens."""
    if hardware.device == "cpu":
        return BATCH_TOKENS
    room = hardware.memory_gib * 2**30 * LOGITS_SHARE / (LOGITS_BYTES * vocabulary)
    return min(max(int(room), BATCH_TOKENS), LARGE_BATCH_TOKENS)


def whole(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a conversation, of shape (1, length), as the model's arguments."""
    return {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}


def padded(sequences: Sequence[torch.Tensor], tokens: int) -> list[dict[str, torch.Tensor]]:
    """Return the model's arguments for batches of conversations of like lengths, padded behind their ends.

    A token attends to none behind it, so the padding needs no attention mask; `loss_mask` says what AWQ counts.

    Args:
        sequences: conversations, each of shape (1, length).
        tokens: tokens of a batch, with its padding; a longer conversation is a batch of its own. Its pairs of tokens
            that attend to each other are at most `BATCH_SCORES`.
    """
    import torch

    groups: list[list[torch.Tensor]] = []
    for ids in sorted(sequences, key=lambda ids: ids.shape[1]):
        size = (len(groups[-1]) + 1) * ids.shape[1] if groups else 0
        if groups and size <= tokens and size * ids.shape[1] <= BATCH_SCORES:
            groups[-1].append(ids)
        else:
            groups.append([ids])
    found = []
    for group in groups:
        spare = [group[-1].shape[1] - ids.shape[1] for ids in group]
        rows = zip(group, spare, strict=True)
        batch = torch.cat([torch.nn.functional.pad(ids, (0, more), value=int(ids[0, -1])) for ids, more in rows])
        counted = torch.arange(batch.shape[1]) < batch.shape[1] - torch.tensor(spare)[:, None]
        found.append({**whole(batch), "loss_mask": counted.long()})
    return found


def recipe(
    quant: QuantSettings,
    kept: Sequence[str] = (),
    mappings: Sequence[Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> list[Any]:
    """Return llm-compressor's modifiers for a scheme and its algorithm.

    Args:
        quant: the scheme.
        kept: Linear modules that stay in BF16, beside those that the settings name.
        mappings: layers that AWQ and SmoothQuant rescale together; None: as they find by the architecture.
        names: of Linears in the checkpoint -> in the model, for a mix.
    """
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    ignored = list(dict.fromkeys([*quant.ignore, *kept]))
    if isinstance(quant, ChosenSettings):
        return _recipe_of_mix(quant, ignored, names or {})
    common: dict[str, Any] = {"config_groups": {"group_0": scheme_of(quant, ["Linear"])}, "ignore": ignored}
    # Each runs over all layers before the next one does: GPTQ sees inputs as they are smoothed.
    modifiers: list[Any] = []
    rescaling = RESCALING.get(quant.algorithm)
    if rescaling == AWQ:
        modifiers.append(AWQModifier(mappings=mappings))
    elif rescaling == SMOOTHQUANT:
        modifiers.append(SmoothQuantModifier(smoothing_strength=quant.smoothing_strength, mappings=mappings))
    if quant.algorithm in (GPTQ, SMOOTHQUANT_GPTQ):
        return [*modifiers, GPTQModifier(dampening_frac=quant.dampening, **common)]
    return [*modifiers, QuantizationModifier(**common)]


def _recipe_of_mix(quant: ChosenSettings, ignored: list[str], names: Mapping[str, str]) -> list[Any]:
    """Return a modifier for each algorithm of a mix, with a group for each of its formats."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups: dict[str, dict[str, Any]] = {}
    for scheme in quant.schemes:
        own = quant.candidate(scheme)
        modules = [names.get(module, module) for module, chosen in quant.formats.items() if chosen == scheme]
        groups.setdefault(own.algorithm, {})[scheme] = scheme_of(own, modules)
    modifiers: list[Any] = []
    if compensated := groups.pop(GPTQ, None):
        modifiers.append(GPTQModifier(config_groups=compensated, ignore=ignored, dampening_frac=quant.dampening))
    return modifiers + [QuantizationModifier(config_groups=own, ignore=ignored) for own in groups.values()]


def scheme_of(quant: QuantSettings, targets: Sequence[str]) -> Any:
    """Return compressed-tensors' quantization scheme of a number format, for some modules."""
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme

    scheme = preset_name_to_scheme(str(quant.scheme).removesuffix("_STATIC"), targets=list(targets))
    if quant.scheme == "W8A8_STATIC":
        # One scale for all tokens, from calibration; there is no preset for it.
        scheme.input_activations = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=True, dynamic=False)
    if quant.group_size is not None:
        scheme.weights.group_size = quant.group_size
    # As inferred, but for W4AFP8: compressed-tensors 0.19 would leave its integers unpacked, which vLLM cannot load.
    scheme.format = SCHEMES[str(quant.scheme)].layouts["llmcompressor"].name
    return scheme


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


def save(model: Any, folder: Path) -> None:
    """Compress and write the weights: quantized ones as rounded, everything else in BF16."""
    import torch
    from compressed_tensors.compressors import ModelCompressor

    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model, skip_compressed=True)
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        # Scales of tensors and channels keep the precision of the computation; of groups there are many, in BF16.
        scheme = getattr(model.get_submodule(name.rpartition(".")[0]), "quantization_scheme", None)
        has_groups = scheme is not None and scheme.weights.group_size is not None
        is_group = has_groups and not name.endswith("_global_scale")
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


def _settle_config(source: Path, folder: Path, linears: Mapping[str, str]) -> None:
    """Write the source's config.json with the engine's `quantization_config`: transformers would rewrite the rest.

    Routers and other matrices that stay in BF16 are listed in it, since vLLM loads some of them as Linears.

    Args:
        source: the BF16 checkpoint.
        folder: the checkpoint made of it.
        linears: names of its Linears in the checkpoint -> in the model, which the engine names them by.
    """
    config, quantization = read_config(source), read_config(folder)["quantization_config"]
    names = [*quantization.get("ignore", ()), *kept_matrices(stored_tensors(source), config)]
    quantization["ignore"] = list(dict.fromkeys(names))
    stored = {called: name for name, called in linears.items()}
    for group in quantization["config_groups"].values():
        group["targets"] = [stored.get(target, target) for target in group["targets"]]
    write_config(config | {"quantization_config": quantization}, folder)


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
