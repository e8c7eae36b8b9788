"""Models that llm-compressor's SmoothQuant and AWQ would turn into others: they divide a norm that other layers read.

Its registries map norms to the Linears behind them by name, and fall back on Llama's names where they do not know an
architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import QuantSettings
from pipeline.errors import ConfigError
from pipeline.formats.schemes import RESCALING
from pipeline.models.architecture import text_config

_BETWEEN = (
    "divides post_attention_layernorm by what it multiplies gate_proj and up_proj with, and these read another norm"
)
_ROUTED = "divides post_attention_layernorm, and leaves the router behind it as it is"
_SHARED = "divides post_attention_layernorm, and leaves the shared experts behind it as they are"
_UNNAMED = "has no mapping of its norms and the Linears behind them"
_SANDWICHED = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "vaultgemma")
_OTHERWISE = ("glm4", "olmo2", "starcoder2", "gpt_neox")
# Algorithm -> `model_type` -> what is wrong.
WRONG: Mapping[str, Mapping[str, str]] = {
    "smoothquant": {
        **dict.fromkeys(("gemma2", "gemma3", "gemma3_text", *_SANDWICHED), _BETWEEN),
        **dict.fromkeys(("glm4_moe", "llama4", "llama4_text"), _ROUTED),
        **dict.fromkeys((*_OTHERWISE, "qwen3_next"), _UNNAMED),
    },
    # Gemma 2 and 3 are in its own registry, rightly.
    "awq": {
        **dict.fromkeys(_SANDWICHED, _BETWEEN),
        **dict.fromkeys(("mixtral", "ernie4_5_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"), _ROUTED),
        **dict.fromkeys(("glm4_moe", "qwen2_moe"), _SHARED),
        **dict.fromkeys(_OTHERWISE, _UNNAMED),
    },
}


def check_smoothing(quant: QuantSettings, config: Mapping[str, Any]) -> None:
    """Reject, from config.json alone, a model whose function llm-compressor's rescaling would change.

    Raises:
        ConfigError: naming the algorithm and the model's type.
    """
    kind, rescaling = str(text_config(config).get("model_type")), RESCALING.get(quant.algorithm, "")
    if quant.engine == "llmcompressor" and (reason := WRONG.get(rescaling, {}).get(kind)):
        raise ConfigError(
            f"quant.algorithm={quant.algorithm} on a model of type {kind}: llm-compressor {reason}.",
            "Choose quant.algorithm=gptq or rtn.",
        )
