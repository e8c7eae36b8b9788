"""Support of a variant on a machine: the hardware's rules applied to settings."""

from __future__ import annotations

from pipeline.config import QuantSettings, Settings
from pipeline.hardware.rules import LOCKED, Capability, Machine, ServingRequest, Vllm, of_kv_cache, of_scheme, weaker


def of_settings(settings: Settings, machine: Machine, vllm: Vllm = LOCKED, experts: bool = False) -> Capability:
    """Return the capability of a machine for a variant: the weaker one of its weights and its KV cache.

    Args:
        settings: those of the variant.
        machine: a GPU, or this machine.
        vllm: the serving vLLM.
        experts: whether the variant quantizes the experts of a mixture.
    """
    if reason := why_no_kv_scales(settings):
        return Capability("no", reason=reason)
    serve = settings.serve
    weights = of_quant(settings.quant, machine, vllm, serve.kernel, serve.dtype, experts)
    return weaker(weights, of_kv_cache(settings.kv_cache.dtype, machine, vllm))


def why_no_kv_scales(settings: Settings) -> str:
    """Return why a checkpoint cannot carry calibrated KV-cache scales; empty if it can or needs none.

    An attention layer gets the scales from its quantization method, `BaseKVCacheMethod`. Among the vLLM methods used
    here only that of compressed-tensors has one; those of AWQ, GPTQ, bitsandbytes and GGUF give attention layers none
    (their `get_quant_method`), and the scales would silently stay at 1.0.
    """
    quant = settings.quant
    if not settings.kv_cache.needs_data or quant.engine in ("none", "llmcompressor"):
        return ""
    other = "the same scheme by quant.engine=llmcompressor, or " if "llmcompressor" in _engines(quant) else ""
    return (
        "vLLM loads calibrated KV-cache scales from compressed-tensors checkpoints, not from what "
        f"{quant.engine} writes: choose {other}kv_cache.scales=one"
    )


def _engines(quant: QuantSettings) -> tuple[str, ...]:
    return tuple(quant.format.engines) if quant.format is not None else ()


def of_quant(
    quant: QuantSettings,
    machine: Machine,
    vllm: Vllm = LOCKED,
    kernel: str = "auto",
    dtype: str = "auto",
    experts: bool = False,
) -> Capability:
    """Return the capability of a machine for a weight format as its engine writes it."""
    engine = "" if quant.engine == "llmcompressor" else quant.engine
    asked = ServingRequest(kernel, dtype, engine, quant.effective_group_size, experts)
    return of_scheme(quant.scheme, machine, vllm, asked)
