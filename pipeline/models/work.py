"""Work of a decoder: what a step reads of its weights, and the products of one token, by names of tensors.

The tensors are a checkpoint's own, in any format, and the parts those of `modules`: so that fused matrices, layers of
linear attention and mixtures of experts are counted as what they are. A token passes all of a decoder but those routed
experts that its router does not choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.formats.layouts import Stored
from pipeline.models.architecture import chosen_experts, number_of_experts, text_config
from pipeline.models.modules import Part, attentions, part_of

# Weights in one element of a packed type, beside integers in an int32.
_PACKED = {"U8": 2}
_WEIGHTS = ("weight", "weight_packed", "qweight")


@dataclass(frozen=True)
class Work:
    """Work of a decoder for one token, and its widths.

    Attributes:
        step_bytes: read by a step of one token.
        expert_bytes: of all routed experts.
        experts: routed experts of a layer, and `chosen` of them for each token; 0 without.
        products: with quantized weights.
        bf16_products: with weights that stay in BF16, such as routers.
        head_products: of the output layer.
        cached: numbers that a token leaves in the KV cache.
        attention_products: with one token of the context.
        mlp: width of all MLPs that a token passes in a layer.
    """

    step_bytes: float
    expert_bytes: float
    experts: int
    chosen: int
    products: float
    bf16_products: float
    head_products: float
    cached: int
    attention_products: int
    mlp: int


def weights_of(tensors: Stored, bits: Callable[[str], int] = lambda _: 0) -> dict[str, int]:
    """Return the number of weights that each matrix of a checkpoint stands for, by module.

    Args:
        tensors: of a checkpoint in any format.
        bits: returns those of a module's weight that is packed into int32; 0 if it is not.
    """
    found = {}
    for name, (kind, shape) in tensors.items():
        module, _, own = name.rpartition(".")
        # Experts that are one tensor have names without `.weight`.
        is_joined = len(shape) == 3 and part_of(name) is Part.EXPERTS
        if is_joined or (len(shape) > 1 and own in _WEIGHTS):
            packed = 32 // own_bits if kind == "I32" and (own_bits := bits(module)) else _PACKED.get(kind, 1)
            found[name if is_joined else module] = math.prod(shape) * packed
    return found


def work_of(
    weights: Mapping[str, int], quantized: Collection[str], stored: Mapping[str, int], config: Mapping[str, Any]
) -> Work:
    """Return the work of a decoder.

    Args:
        weights: number of weights of each matrix, by module.
        quantized: modules whose products are in the format of activations.
        stored: bytes of each tensor of the checkpoint.
        config: content of config.json.

    Raises:
        InputError: if the config does not say what the work depends on.
    """
    layers = text_config(config).get("num_hidden_layers")
    parts = {module: part_of(module, layers) for module in weights}
    sizes = dict.fromkeys(Part, 0.0)
    for tensor, size in stored.items():
        sizes[part_of(tensor, layers)] += size
    head = Part.EMBEDDING if _is_tied(config) or Part.HEAD not in parts.values() else Part.HEAD
    experts, chosen = _experts(config) if Part.EXPERTS in parts.values() else (0, 0)
    share = chosen / experts if experts else 0.0

    def products(modules: Iterable[str]) -> float:
        return sum(weights[module] * (share if parts[module] is Part.EXPERTS else 1) for module in modules)

    passed = [module for module, part in parts.items() if part in (Part.LAYERS, Part.EXPERTS)]
    cached, attention = _attention(weights, config)
    return Work(
        step_bytes=sizes[Part.LAYERS] + sizes[head] + share * sizes[Part.EXPERTS],
        expert_bytes=sizes[Part.EXPERTS],
        experts=experts,
        chosen=chosen,
        products=products(module for module in passed if module in quantized),
        bf16_products=products(module for module in passed if module not in quantized),
        head_products=sum(weights[module] for module, part in parts.items() if part is head),
        cached=cached,
        attention_products=attention,
        mlp=_mlp(config, chosen),
    )


def _is_tied(config: Mapping[str, Any]) -> bool:
    return any(part.get("tie_word_embeddings") for part in (config, text_config(config)))


def _experts(config: Mapping[str, Any]) -> tuple[int, int]:
    experts, chosen = number_of_experts(config), chosen_experts(config)
    if not experts or not chosen:
        raise InputError("config.json does not say how many experts there are and how many a token passes.")
    return experts, chosen


def _attention(weights: Mapping[str, int], config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers that a token leaves in the KV cache, and its products with one token of the context.

    Layers of linear attention keep a state of one size, whatever the context.
    """
    decoder = text_config(config)
    heads, layers = int(decoder["num_attention_heads"]), int(decoder["num_hidden_layers"])
    if rank := decoder.get("kv_lora_rank"):
        # Latent attention: queries are taken to the latent's space, which keys and values share.
        latent = int(rank) + int(decoder.get("qk_rope_head_dim") or 0)
        return layers * latent, layers * heads * (latent + int(rank))
    names = [f"{module}.weight" for module in weights if part_of(module, layers) is Part.LAYERS]
    caching = len(attentions(names))
    if not caching:
        raise InputError("no module of the checkpoint is known to make keys and values.")
    size = int(decoder.get("head_dim") or int(decoder["hidden_size"]) // heads)
    kv_heads = int(decoder.get("num_key_value_heads") or heads)
    return 2 * caching * kv_heads * size, 2 * caching * heads * size


def _mlp(config: Mapping[str, Any], chosen: int) -> int:
    decoder = text_config(config)
    dense = int(decoder.get("intermediate_size") or 0)
    own = int(decoder.get("moe_intermediate_size") or dense)
    shared = int(decoder.get("shared_expert_intermediate_size") or int(decoder.get("n_shared_experts") or 0) * own)
    return max(dense, chosen * own + shared) if chosen else dense
