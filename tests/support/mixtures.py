"""Qwen3-30B-A3B by its published config: the tensors of its checkpoint, without weights."""

from __future__ import annotations

from typing import Any

from pipeline.formats.layouts import Stored

# config.json of Qwen/Qwen3-30B-A3B.
QWEN3_30B_A3B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}


def tensors_of(config: dict[str, Any]) -> Stored:
    """Return the type and shape of each tensor of a Qwen3-MoE."""
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    queries, keys, width = heads * config["head_dim"], kv_heads * config["head_dim"], config["moe_intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_norm.weight": (config["head_dim"],) for name in "qk"}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (keys, hidden) for name in "kv"}
        shapes[f"{layer}.self_attn.q_proj.weight"] = (queries, hidden)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, queries)
        shapes[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            own = f"{layer}.mlp.experts.{expert}"
            shapes |= {f"{own}.{name}_proj.weight": (width, hidden) for name in ("gate", "up")}
            shapes[f"{own}.down_proj.weight"] = (hidden, width)
    return {name: ("BF16", shape) for name, shape in shapes.items()}
