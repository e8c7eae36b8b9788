"""Formats that an engine cannot make of a model, by config.json alone, each with the reason.

llm-compressor's SmoothQuant and AWQ would turn some models into others: they divide a norm that other layers read. Its
registries map norms to the Linears behind them by name, and fall back on Llama's names where they do not know an
architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import Settings
from pipeline.formats.schemes import AWQ, RESCALING, SMOOTHQUANT
from pipeline.hardware.architectures import decoder_types
from pipeline.models.architecture import has_towers, text_config
from pipeline.stages.quantize.experts import why_no_experts

_BETWEEN = (
    "divides post_attention_layernorm by what it multiplies gate_proj and up_proj with, and these read another norm"
)
_ROUTED = "divides post_attention_layernorm, and leaves the router behind it as it is"
_SHARED = "divides post_attention_layernorm, and leaves the shared experts behind it as they are"
_UNNAMED = "has no mapping of its norms and the Linears behind them"
_SANDWICHED = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "vaultgemma")
_OTHERWISE = ("glm4", "olmo2", "starcoder2", "gpt_neox")
# Algorithm whose mapping is used -> `model_type` -> what is wrong.
WRONG: Mapping[str, Mapping[str, str]] = {
    SMOOTHQUANT: {
        **dict.fromkeys(("gemma2", "gemma3", "gemma3_text", *_SANDWICHED), _BETWEEN),
        **dict.fromkeys(("glm4_moe", "llama4", "llama4_text"), _ROUTED),
        **dict.fromkeys((*_OTHERWISE, "qwen3_next"), _UNNAMED),
    },
    # Gemma 2 and 3 are in its own registry, rightly.
    AWQ: {
        **dict.fromkeys(_SANDWICHED, _BETWEEN),
        **dict.fromkeys(("mixtral", "ernie4_5_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"), _ROUTED),
        **dict.fromkeys(("glm4_moe", "qwen2_moe"), _SHARED),
        **dict.fromkeys(_OTHERWISE, _UNNAMED),
    },
}
# Engines that have code for each type of model, and none for one that comes with its own.
BY_TYPE = ("autoawq", "autogptq", "gguf")


def why_not_made(settings: Settings, config: Mapping[str, Any]) -> str:
    """Return why a variant cannot be made of a model, with the way out; empty if nothing speaks against it.

    Args:
        settings: those of the variant.
        config: content of the model's config.json.
    """
    quant, kind, inner = settings.quant, config.get("model_type"), text_config(config).get("model_type")
    if quant.scheme is None and not settings.needs_calibration:
        return ""
    setting = f"quant={quant.name} on a model of type {kind}" if quant.scheme else f"kv_cache={settings.kv_cache.name}"
    is_known = not (types := decoder_types()) or kind in types or kind is None
    brings_code = settings.model.trust_remote_code and bool(config.get("auto_map"))
    if not is_known and not brings_code:
        return f"{setting}: transformers, which loads what is calibrated or quantized, knows no decoder of that type"
    if quant.engine == "llmcompressor" and (wrong := WRONG.get(RESCALING.get(quant.algorithm, ""), {}).get(str(inner))):
        return (
            f"quant.algorithm={quant.algorithm} on a model of type {inner}: llm-compressor {wrong}; choose "
            "quant.algorithm=gptq or rtn"
        )
    if reason := why_no_experts(quant, config):
        return reason
    if quant.engine in BY_TYPE and not is_known:
        return f"quant.engine={quant.engine}: it knows models by their type, and {kind} is the checkpoint's own"
    if quant.engine not in ("none", "llmcompressor") and has_towers(config):
        return (
            f"quant.engine={quant.engine}: it is used here for decoders alone, and models of type {kind} have towers "
            "for images or sound; choose quant.engine=llmcompressor"
        )
    return ""
