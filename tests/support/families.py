"""Tiny checkpoints of families of decoders: random weights, stored by transformers, with the demo's tokenizer.

Norms vary by a third around one and biases are half as large as activations: weights at their initial values would hide
a norm that was rounded and a bias that was left out.
"""

from __future__ import annotations

import json
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
    # As published: vLLM has no CPU kernel for 32.
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
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
    "ministral3": ("Ministral3Config", _COMMON),
    "qwen2": ("Qwen2Config", _WITHOUT_HEAD_DIM),
    "qwen3": ("Qwen3Config", _COMMON),
    "phi3": ("Phi3Config", {**_WITHOUT_HEAD_DIM, "num_key_value_heads": 4}),
    "phi3_shared_heads": ("Phi3Config", _WITHOUT_HEAD_DIM),
    "gemma2": ("Gemma2Config", {**_COMMON, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {**_COMMON, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    # Published ones scale scores of attention down; by 1, as by default, the sharpest token takes all.
    "granite": ("GraniteConfig", {**_WITHOUT_HEAD_DIM, "attention_multiplier": 32**-0.5}),
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
    "phi": ("PhiConfig", {**_WITHOUT_HEAD_DIM, "num_key_value_heads": 4}),
    "exaone4": ("Exaone4Config", {**_COMMON, "sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "olmo": ("OlmoConfig", _WITHOUT_HEAD_DIM),
    "olmoe": ("OlmoeConfig", {**_WITHOUT_HEAD_DIM, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_5_moe": (
        "Qwen3_5MoeTextConfig",
        {**_COMMON, **_EXPERTS, **_LINEAR_ATTENTION, "shared_expert_intermediate_size": 128},
    ),
    "deepseek_v2": ("DeepseekV2Config", {**_WITHOUT_HEAD_DIM, **_EXPERTS, **_LATENT}),
    "qwen2_moe": ("Qwen2MoeConfig", {**_COMMON, **_EXPERTS, "shared_expert_intermediate_size": 128}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {**_COMMON, **_EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 0, "n_shared_experts": 1},
    ),
}

# Mixtures whose checkpoints keep the experts of a layer in one tensor.
JOINED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama4": (
        "Llama4TextConfig",
        {**_COMMON, "num_local_experts": 4, "intermediate_size_mlp": 256, "interleave_moe_layer_step": 1},
    ),
}

_MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
# A width that groups of 32 do not divide: nothing of a tower is quantized.
_BLOCKS: dict[str, Any] = {"depth": 2, "hidden_size": 48, "intermediate_size": 80, "num_heads": 2}
_IMAGES: dict[str, Any] = {"image_token_id": 4001, "video_token_id": 4002, "vision_start_token_id": 4003}
# Multimodal model -> its class of transformers' configs, the settings of decoder and tower, and others.
TOWERS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3_vision": (
        "Gemma3Config",
        {**_COMMON, "query_pre_attn_scalar": 32, "sliding_window": 64},
        {
            **{"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": 32, "patch_size": 8},
        },
        {"mm_tokens_per_image": 4, "boi_token_index": 4003, "eoi_token_index": 4004, "image_token_index": 4001},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        {**_WITHOUT_HEAD_DIM, "rope_parameters": _MROPE},
        {**_BLOCKS, "out_hidden_size": 128, "window_size": 56, "fullatt_block_indexes": [1]},
        _IMAGES,
    ),
    "qwen3_vl": (
        "Qwen3VLConfig",
        {**_COMMON, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
        {**_BLOCKS, "out_hidden_size": 128, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        _IMAGES,
    ),
}
# Files of a multimodal model that its decoder does not read.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def write(family: str, folder: Path) -> Path:
    """Write the checkpoint of a family; return its folder."""
    import transformers

    tokens = {"bos_token_id": None, "eos_token_id": 1}
    if family in TOWERS:
        name, decoder, tower, others = TOWERS[family]
        parts = {"text_config": {**decoder, **tokens}, "vision_config": tower}
        config = getattr(transformers, name)(**parts, **others, tie_word_embeddings=name == "Gemma3Config")
        model = _randomized(transformers.AutoModelForMultimodalLM.from_config, config)
    else:
        name, settings = {**FAMILIES, **JOINED}[family]
        config = getattr(transformers, name)(**settings, **tokens)
        model = _randomized(transformers.AutoModelForCausalLM.from_config, config)
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    copy_companions(CHECKPOINT, partial)
    for file in PROCESSOR_FILES if family in TOWERS else ():
        (partial / file).write_text(json.dumps({"of": family}))
    shutil.rmtree(folder, ignore_errors=True)
    return partial.rename(folder)


def _randomized(create: Any, config: Any) -> Any:
    torch.manual_seed(3)
    model = create(config, dtype=torch.float32)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "norm" in path:
                # Some families multiply by one plus the weight.
                parameter.copy_(parameter.round() + 0.3 * torch.randn_like(parameter))
            elif path.endswith(".bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.to(torch.bfloat16)
