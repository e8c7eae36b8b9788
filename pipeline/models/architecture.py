"""Dense decoders by their config.json: the tensors by name, and the compute and memory per token.

Only the config is read, so costs are known without downloading the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.json_files import parse_json

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Bytes of a number in the KV cache, by its dtype.
KV_BYTES = {"auto": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}
# Settings of mixtures of experts in the configs of different families: routed experts, and those that a token passes.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k")
# Layers that keep keys and values of the context, by the names of `layer_types`.
_ATTENTIONS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}
# Kinds of scaled positions that `max_position_embeddings` counts already, as vLLM has them.
_COUNTED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
# Parts of a multimodal model's config.json beside its decoder's.
_TOWERS = ("vision_config", "audio_config", "encoder_config")


CONFIG = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json.

    Raises:
        OSError: if it is missing.
        ValueError: if it is not a JSON object.
    """
    content = parse_json((folder / CONFIG).read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{folder / CONFIG} holds no JSON object")
    return content


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the decoder; multimodal models have several parts."""
    part: Mapping[str, Any] = config.get("text_config", config)
    return part


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that positions reach, scaled as by vLLM; None if config.json has no limit."""
    config = text_config(config)
    length = config.get("max_position_embeddings")
    if not length:
        return None
    scaled = (rope for rope in _ropes(config) if _kind_of(rope) not in _COUNTED)
    factor = next((rope["factor"] for rope in scaled if rope.get("factor")), 1)
    # Gemma 3 counts its scaling, of whatever kind.
    return int(length if "gemma3" in str(config.get("model_type")) else length * factor)


def default_context(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of a request that vLLM serves unless it is told otherwise; None if config.json has no limit."""
    own = text_config(config)
    # LongRoPE costs quality in short texts: vLLM uses the length before it.
    is_long = any(_kind_of(rope) == "longrope" for rope in _ropes(own))
    return (own.get("original_max_position_embeddings") if is_long else None) or longest_context(config)


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of rotary positions: one for all layers, or one for each kind of layer."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    is_nested = bool(found) and all(isinstance(each, Mapping) for each in found.values())
    yield from found.values() if is_nested else [found]


def _kind_of(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type"))


def number_of_experts(config: Mapping[str, Any]) -> int:
    """Return the routed experts of a layer; 0 for a dense decoder."""
    return _first(config, _EXPERTS)


def chosen_experts(config: Mapping[str, Any]) -> int:
    """Return the routed experts that a token passes in a layer; 0 if config.json does not say."""
    return _first(config, _CHOSEN)


def has_towers(config: Mapping[str, Any]) -> bool:
    """Return whether a model has towers for images or sound beside its decoder."""
    return any(config.get(name) for name in _TOWERS)


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether a decoder is a mixture of experts."""
    return number_of_experts(config) > 0


def _first(config: Mapping[str, Any], names: Iterable[str]) -> int:
    return next((int(value) for name in names if (value := text_config(config).get(name))), 0)


@dataclass(frozen=True)
class DecoderShape:
    """A decoder with a gated MLP and grouped-query attention: Qwen3, Qwen2, Llama, Mistral and their like.

    Attributes:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width of the MLP.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: rows of the embedding.
        tied: whether the output layer is the embedding.
        head_norms: whether queries and keys are normalized (Qwen3).
        biased: whether q, k and v have a bias (Qwen2).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    head_norms: bool
    biased: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DecoderShape:
        """Create from a config.json.

        Raises:
            InputError: on a decoder of another kind, and on a config that lacks a width.
        """
        config = text_config(config)
        kinds = set(config.get("layer_types") or ()) - _ATTENTIONS
        if has_experts(config) or kinds:
            what = f"layers of {', '.join(sorted(kinds))}" if kinds else "mixture of experts"
            raise InputError(
                f"{config.get('model_type')}: the tensors of a {what} do not follow from config.json alone."
            )
        try:
            heads, kind = int(config["num_attention_heads"]), str(config.get("model_type", ""))
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
                vocabulary=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                head_norms=kind == "qwen3",
                biased=kind == "qwen2" or bool(config.get("attention_bias")),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"config.json names no dense decoder ({error}).") from None

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear modules of one layer: (out, in)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the BF16 checkpoint with its shape, as transformers names them."""
        found: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocabulary, self.hidden)}
        for index in range(self.layers):
            layer = f"model.layers.{index}"
            found |= {f"{layer}.{name}.weight": shape for name, shape in self.linears.items()}
            if self.biased:
                found |= {f"{layer}.self_attn.{n}_proj.bias": self.linears[f"self_attn.{n}_proj"][:1] for n in "qkv"}
            if self.head_norms:
                found |= {f"{layer}.self_attn.{n}_norm.weight": (self.head_dim,) for n in "qk"}
            found |= {f"{layer}.{n}_layernorm.weight": (self.hidden,) for n in ("input", "post_attention")}
        found["model.norm.weight"] = (self.hidden,)
        return found if self.tied else {**found, HEAD: (self.vocabulary, self.hidden)}

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied embedding counted once."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def linear_parameters(self) -> int:
        """Number of weights in the layers' Linear modules; each takes one product per token."""
        return self.layers * sum(out * width for out, width in self.linears.values())


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int | None:
    """Return the bytes of one token's keys and values over all layers; None for other kinds of attention.

    2 (keys and values) x layers that keep them x KV heads x head size x bytes of a number.
    """
    config = text_config(config)
    heads = config.get("num_attention_heads")
    layers, kv_heads = _caching_layers(config), config.get("num_key_value_heads", heads)
    size = config.get("head_dim") or (config["hidden_size"] // heads if heads and "hidden_size" in config else None)
    if not (layers and kv_heads and size) or "kv_lora_rank" in config:
        return None
    return int(2 * layers * kv_heads * size * KV_BYTES[dtype])


def _caching_layers(config: Mapping[str, Any]) -> int:
    """Return the number of layers with attention; others keep a state of one size."""
    layers = int(config.get("num_hidden_layers") or 0)
    if kinds := config.get("layer_types"):
        return sum(kind in _ATTENTIONS for kind in kinds)
    return layers // int(config.get("full_attention_interval") or 1)


def has_windows(config: Mapping[str, Any]) -> bool:
    """Return whether some layers keep less than the whole context: sliding windows, linear attention, state spaces."""
    config = text_config(config)
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    return bool(kinds or slides or config.get("layers_block_type"))
