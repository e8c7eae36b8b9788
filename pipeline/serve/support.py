"""Support of a variant on a machine: the hardware's rules applied to settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import ExistingSettings, QuantSettings, Settings
from pipeline.config.existing import GGUF
from pipeline.hardware.rules import (
    LOCKED,
    Capability,
    Machine,
    ServingRequest,
    Support,
    Vllm,
    of_kv_cache,
    of_scheme,
    weaker,
)
from pipeline.models.preflight import rounds_experts
from pipeline.models.shapes import fits, served_shapes

if TYPE_CHECKING:
    from pipeline.models.source import ModelSource


# Kinds of support with which a format is served, the best first.
SERVED: tuple[Support, ...] = ("native", "emulated")


def of_settings(
    settings: Settings,
    machine: Machine,
    vllm: Vllm = LOCKED,
    shapes: frozenset[tuple[int, int]] = frozenset(),
    experts: bool = False,
) -> Capability:
    """Return the capability of a machine for a variant: the weaker one of its weights and its KV cache.

    Args:
        settings: those of the variant.
        machine: a GPU, or this machine.
        vllm: the serving vLLM.
        shapes: shapes (in, out) of the model's weights as one GPU loads them, if they are known.
        experts: whether the variant quantizes the experts of a mixture.
    """
    if reason := why_no_kv_scales(settings) or why_not_taken(settings.quant):
        return Capability("no", reason=reason)
    serve = settings.serve
    weights = of_quant(settings.quant, machine, vllm, serve.kernel, serve.dtype, shapes, experts)
    return weaker(weights, of_kv_cache(settings.kv_cache.dtype, machine, vllm))


def of_quant(
    quant: QuantSettings,
    machine: Machine,
    vllm: Vllm = LOCKED,
    kernel: str = "auto",
    dtype: str = "auto",
    shapes: frozenset[tuple[int, int]] = frozenset(),
    experts: bool = False,
) -> Capability:
    """Return the capability of a machine for a weight format as its engine writes it; see `of_settings`."""
    if quant.is_existing and quant.scheme is None:
        return Capability("native", "what vLLM chooses", "a format that no table of this project has")
    if quant.is_mixed:
        found = [
            of_quant(quant.candidate(name), machine, vllm, kernel, dtype, shapes, experts) for name in quant.schemes
        ]
        return _of_mix(quant, found, machine)
    asked = ServingRequest(kernel, dtype, quant.own_format, quant.effective_group_size, shapes, experts)
    return of_scheme(quant.scheme, machine, vllm, asked)


def _of_mix(quant: QuantSettings, found: list[Capability], machine: Machine) -> Capability:
    """Return the capability of a machine for a mix: that of the candidates which it serves best."""
    for support in SERVED:
        own = [each for each in found if each.support == support]
        if own:
            by, reasons = dict.fromkeys(each.by for each in own), dict.fromkeys(each.reason for each in own)
            return Capability(support, " and ".join(filter(None, by)), "; ".join(filter(None, reasons)))
    return Capability("no", reason=f"{machine.name} serves none of {', '.join(quant.schemes)}")


def with_candidates(source: ModelSource, settings: Settings, machine: Machine, vllm: Vllm = LOCKED) -> Settings:
    """Return the settings of a mix with those candidates that fit the model's shapes and that the machine serves best.

    Formats with kernels are not mixed with emulated ones. Where none is served the candidates are as they were.
    """
    quant, serve = settings.quant, settings.serve
    if not quant.is_mixed:
        return settings
    shapes, experts = served_shapes(source, settings), rounds_experts(source, quant)
    own = {name: settings.model_copy(update={"quant": quant.candidate(name)}) for name in quant.candidates}
    answers = {
        name: of_quant(each.quant, machine, vllm, serve.kernel, serve.dtype, shapes, experts).support
        for name, each in own.items()
        if fits(source, each)
    }
    by_support = (tuple(name for name, answer in answers.items() if answer == support) for support in SERVED)
    kept = next(filter(None, by_support), quant.candidates)
    return settings.model_copy(update={"quant": quant.model_copy(update={"candidates": kept})})


def why_not_taken(quant: QuantSettings) -> str:
    """Return why what others quantized cannot be a variant; empty if it can."""
    if not isinstance(quant, ExistingSettings) or quant.stored_as != GGUF:
        return ""
    return (
        f"{quant.name} is llama.cpp's GGUF, whose files name neither layers nor tokenizer as the BF16 model does, so "
        "that nothing could be compared: make one by gguf_q4_k_m or gguf_q8_0"
    )


def why_no_kv_scales(settings: Settings) -> str:
    """Return why a checkpoint cannot carry calibrated KV-cache scales; empty if it can or needs none.

    An attention layer gets the scales from its quantization method, `BaseKVCacheMethod`. Among the vLLM methods used
    here only that of compressed-tensors has one; those of AWQ, GPTQ, bitsandbytes and GGUF give attention layers none
    (their `get_quant_method`), and the scales would silently stay at 1.0.
    """
    quant = settings.quant
    if not settings.kv_cache.needs_data or quant.engine in ("none", "llmcompressor"):
        return ""
    if quant.is_existing:
        return f"{quant.name} has no scales of an FP8 KV cache, and none are added to it: choose kv_cache.scales=one"
    other = "the same scheme by quant.engine=llmcompressor, or " if "llmcompressor" in _engines(quant) else ""
    return (
        "vLLM loads calibrated KV-cache scales from compressed-tensors checkpoints, not from what "
        f"{quant.engine} writes: choose {other}kv_cache.scales=one"
    )


def _engines(quant: QuantSettings) -> tuple[str, ...]:
    return tuple(quant.format.engines) if quant.format is not None else ()
