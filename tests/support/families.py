"""Tiny checkpoints of families of decoders: random weights, stored by transformers, with the demo's tokenizer.

Norms vary by a third around one and biases are half as large as activations: weights at their initial values would hide
a norm that was rounded and a bias that was left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.demo import CHECKPOINT
from pipeline.models.safetensors import copy_companions

_COMMON: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "initializer_range": 0.08,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
}
_LINEAR_ATTENTION: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
_WINDOWS: dict[str, Any] = {
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
_WITHOUT_HEAD_DIM = {name: value for name, value in _COMMON.items() if name != "head_dim"}
# Family -> its class of transformers' configs, and its settings.
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_COMMON, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**_COMMON, "sliding_window": None}),
    "qwen2": ("Qwen2Config", _WITHOUT_HEAD_DIM),
    "qwen3": ("Qwen3Config", _COMMON),
    "phi3": ("Phi3Config", {**_WITHOUT_HEAD_DIM, "num_key_value_heads": 4}),
    "phi3, shared heads": ("Phi3Config", _WITHOUT_HEAD_DIM),
    "gemma2": ("Gemma2Config", {**_COMMON, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {**_COMMON, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    "granite": ("GraniteConfig", _WITHOUT_HEAD_DIM),
    "cohere2": ("Cohere2Config", {**_COMMON, "sliding_window": 64, "logit_scale": 1.0}),
    "glm4": ("Glm4Config", _COMMON),
    "olmo2": ("Olmo2Config", _WITHOUT_HEAD_DIM),
    "smollm3": ("SmolLM3Config", _WITHOUT_HEAD_DIM),
    "starcoder2": ("Starcoder2Config", _WITHOUT_HEAD_DIM),
    "gpt_neox": ("GPTNeoXConfig", _WITHOUT_HEAD_DIM),
    "qwen3_moe": ("Qwen3MoeConfig", {**_COMMON, **_EXPERTS}),
    "mixtral": ("MixtralConfig", {**_COMMON, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {**_COMMON, **_EXPERTS, **_LINEAR_ATTENTION, "shared_expert_intermediate_size": 128},
    ),
    "qwen3_5": ("Qwen3_5TextConfig", {**_COMMON, **_LINEAR_ATTENTION}),
    "gemma4": ("Gemma4TextConfig", {**_COMMON, **_WINDOWS}),
    "qwen2_moe": ("Qwen2MoeConfig", {**_COMMON, **_EXPERTS, "shared_expert_intermediate_size": 128}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {**_COMMON, **_EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 0, "n_shared_experts": 1},
    ),
}


def write(family: str, folder: Path) -> Path:
    """Write the checkpoint of a family; return its folder."""
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, name)(**settings, bos_token_id=None, eos_token_id=1)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "norm" in path:
                # Some families multiply by one plus the weight.
                parameter.copy_(parameter.round() + 0.3 * torch.randn_like(parameter))
            elif path.endswith(".bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    partial = folder.with_name(f"{folder.name}.partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    copy_companions(CHECKPOINT, partial)
    shutil.rmtree(folder, ignore_errors=True)
    return partial.rename(folder)
