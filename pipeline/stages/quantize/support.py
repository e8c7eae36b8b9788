"""Formats that an engine cannot make of a model, by config.json and names of tensors, each with the reason.

llm-compressor's SmoothQuant and AWQ would turn some models into others: they divide a norm that other layers read. Its
registries map norms to the Linears behind them by name, and fall back on Llama's names where they do not know an
architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import Settings
from pipeline.formats.schemes import AWQ, RESCALING, SMOOTHQUANT
from pipeline.hardware.architectures import autoawq_types, decoder_types
from pipeline.models.architecture import has_towers, text_config
from pipeline.models.mappings import why_unmapped
from pipeline.stages.quantize.experts import why_no_experts

_BETWEEN = (
    "divides post_attention_layernorm by what it multiplies gate_proj and up_proj with, and these read another norm"
)
_ROUTED = "divides the norm in front of the experts, and leaves the router behind it as it is"
_SHARED = "divides the norm in front of the experts, and leaves the shared ones behind it as they are"
_UNNAMED = "has no mapping of its norms and the Linears behind them"
_BESIDE_DENSE = "has a mapping that does not fit the dense layers in front of the mixtures"
_ONLY_SHARED = (
    "divides the norm in front of the experts, and leaves the router and the routed ones behind it as they are"
)
_WITHOUT_WEIGHT = "divides norms, which have no weight here"
_ACTIVATION = "divides an activation function, which has no weight"
_SANDWICHED = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "vaultgemma")
_OTHERWISE = ("glm4", "olmo2", "starcoder2", "gpt_neox")
# Algorithm whose mapping is used -> `model_type` -> what is wrong.
WRONG: Mapping[str, Mapping[str, str]] = {
    SMOOTHQUANT: {
        **dict.fromkeys(("gemma2", "gemma3", "gemma3_text", *_SANDWICHED), _BETWEEN),
        **dict.fromkeys(("cohere2_moe", "glm4_moe", "llama4", "llama4_text"), _ROUTED),
        **dict.fromkeys(("qwen3_5_moe", "qwen3_5_moe_text"), _ONLY_SHARED),
        **dict.fromkeys((*_OTHERWISE, "qwen3_next"), _UNNAMED),
        "olmo": _WITHOUT_WEIGHT,
    },
    # Gemma 2 and 3 are in its own registry, rightly.
    AWQ: {
        **dict.fromkeys(_SANDWICHED, _BETWEEN),
        **dict.fromkeys(("mixtral", "ernie4_5_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"), _ROUTED),
        **dict.fromkeys(("cohere2_moe", "deepseek_v2", "glm4_moe_lite", "glm_moe_dsa"), _ROUTED),
        **dict.fromkeys(("glm4_moe", "qwen2_moe"), _SHARED),
        "bloom": _ACTIVATION,
        "deepseek_v3": _BESIDE_DENSE,
        **dict.fromkeys(_OTHERWISE, _UNNAMED),
    },
}
# Types whose matrices transformers stores as (in, out), in modules of its own.
CONVOLUTIONS = ("gpt2",)
# Engines that have code for each type of model, and none for one that comes with its own.
BY_TYPE = ("autoawq", "autogptq", "gguf")


def why_not_made(settings: Settings, config: Mapping[str, Any], tensors: Iterable[str] = ()) -> str:
    """Return why a variant cannot be made of a model, with the way out; empty if nothing speaks against it.

    Args:
        settings: those of the variant.
        config: content of the model's config.json.
        tensors: names of the model's tensors, as far as they are known.
    """
    quant, kind, inner = settings.quant, config.get("model_type"), text_config(config).get("model_type")
    if quant.scheme is None and not settings.needs_calibration:
        return ""
    setting = f"quant={quant.name} on a model of type {kind}" if quant.scheme else f"kv_cache={settings.kv_cache.name}"
    is_known = not (types := decoder_types()) or kind in types or kind is None
    brings_code = settings.model.trust_remote_code and bool(config.get("auto_map"))
    if not is_known and not brings_code:
        return f"{setting}: transformers, which loads what is calibrated or quantized, knows no decoder of that type"
    if quant.scheme and not quant.is_existing and kind in CONVOLUTIONS:
        return f"{setting}: its matrices are Conv1D modules, and engines quantize Linear modules alone"
    rescaling = RESCALING.get(quant.algorithm) if quant.engine == "llmcompressor" else None
    if rescaling and (wrong := WRONG[rescaling].get(str(inner)) or why_unmapped(config, tensors, rescaling)):
        return (
            f"quant.algorithm={quant.algorithm} on a model of type {inner}: llm-compressor {wrong}; choose "
            "quant.algorithm=gptq or rtn"
        )
    if reason := why_no_experts(quant, config, tensors):
        return reason
    if quant.engine in BY_TYPE and not is_known:
        return f"quant.engine={quant.engine}: it knows models by their type, and {kind} is the checkpoint's own"
    if quant.engine not in ("none", "llmcompressor") and has_towers(config):
        return (
            f"quant.engine={quant.engine}: it is used here for decoders alone, and models of type {kind} have towers "
            "for images or sound; choose quant.engine=llmcompressor"
        )
    if quant.engine == "autoawq" and (types := autoawq_types()) and kind not in types:
        return f"quant.engine=autoawq: it does not know models of type {kind}; choose quant.engine=llmcompressor"
    return ""
