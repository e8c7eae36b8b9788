"""Models of two layers and random weights, one of each family that builds its layers in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline.models.architecture import read_config
from pipeline.models.mappings import rescaled_by
from pipeline.models.rescaling import norm_offset

_SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_routed_experts": 4}
_MAP = {"sliding_window": 32, "sliding_window_pattern": 2, "layer_types": ["sliding_attention", "full_attention"]}
# Name -> class of the config, and what differs from the shape above.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 4}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "granite": ("GraniteConfig", {}),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4}),
    "phi3, shared heads": ("Phi3Config", {}),
    "cohere2": ("Cohere2Config", _MAP),
    "gemma2": ("Gemma2Config", _MAP),
    "gemma3": ("Gemma3TextConfig", _MAP),
    "gemma4": ("Gemma4TextConfig", _MAP),
    "qwen3_moe": ("Qwen3MoeConfig", _ROUTED),
    "qwen2_moe": ("Qwen2MoeConfig", {**_ROUTED, "shared_expert_intermediate_size": 64}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4": ("Glm4Config", {}),
    "olmo2": ("Olmo2Config", {}),
    "starcoder2": ("Starcoder2Config", {}),
    "glm4_moe": ("Glm4MoeConfig", {**_ROUTED, "first_k_dense_replace": 0, "n_shared_experts": 1}),
}


def write_family(folder: Path, name: str) -> Path:
    """Write the BF16 checkpoint of a family, its norms and biases random too."""
    import transformers

    kind, other = FAMILIES[name]
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**{**_SHAPE, **other}))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key and key.endswith("weight"):
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter)).add_(0.1 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    """What a checkpoint answers to fixed tokens, computed in float32."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def pairs_of(folder: Path, algorithm: str) -> dict[str, str]:
    """The layer that llm-compressor divides for each that it multiplies."""
    shapes = {n.removesuffix(".weight"): tuple(t.shape) for n, t in tensors_of(folder).items() if n.endswith(".weight")}
    return rescaled_by(read_config(folder), shapes, algorithm, "llmcompressor")


def rescaled(folder: Path, pairs: dict[str, str]) -> dict[str, torch.Tensor]:
    """A model's tensors as the algorithm leaves them: columns multiplied, what is in front of them divided."""
    tensors = {name: tensor.float() for name, tensor in tensors_of(folder).items()}
    offset = norm_offset(read_config(folder))
    draw = torch.Generator().manual_seed(5)
    for maker in dict.fromkeys(pairs.values()):
        behind = [module for module, own in pairs.items() if own == maker]
        factors = torch.exp(0.7 * torch.randn(tensors[f"{behind[0]}.weight"].shape[-1], generator=draw))
        for module in behind:
            tensors[f"{module}.weight"] *= factors
        for name in (f"{maker}.weight", f"{maker}.bias"):
            if name in tensors:
                divided = tensors[name][-len(factors) :]
                one = offset if tensors[name].dim() == 1 and name.endswith("weight") else 0.0
                scale = factors[:, None] if divided.dim() == 2 else factors
                tensors[name][-len(factors) :] = (divided + one) / scale - one
    return tensors
