"""Linear modules of a decoder, by kind: the one list that engines, gate, predicted sizes and reports share.

The list follows from names and shapes of the checkpoint's tensors and from config.json alone. A Linear is a matrix
`<prefix>.<layers>.<number>.<own name>.weight` of a decoder layer; those that no recipe of the formats quantizes stay
in BF16: routers, whose choice of experts is discrete, gates of a few outputs, towers for images and sound, and the
layers that draft tokens (multi-token prediction).

vLLM loads Linears with the same input as one (`packed_modules_mapping` of its models): q, k and v; gate and up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.errors import ConfigError
from pipeline.formats.layouts import Stored
from pipeline.models.architecture import text_config
from pipeline.models.contents import EMBEDDINGS, HEADS

# Containers of decoder layers: `model.layers.3.`, `transformer.h.3.`, `gpt_neox.layers.3.`.
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Parts of a model outside its decoder, by a component of the name.
_OUTSIDE = re.compile(r"(?:^|\.)(?:mtp|(?:vision|visual|audio|image|speech|multi_?modal|mm)\w*|\w*projector)\.")
# Components of a decoder layer that stay in BF16, by the last component of the name; a router's may be that before it.
ROUTERS = ("gate", "router", "wg", "shared_expert_gate")
# Gates and steps of linear attention and state spaces, and those of Gemma's embeddings and alternatives per layer.
SMALL = (
    *("in_proj_a", "in_proj_b", "in_proj_ba", "b_proj", "f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj"),
    *("x_proj", "dt_proj", "per_layer_input_gate", "per_layer_projection"),
    *("modality_router", "prediction_coefs", "correction_coefs"),
)
# Linears that vLLM loads as one, by the last components of their names.
FUSED: Sequence[tuple[str, ...]] = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
# Linears that make keys, alone or fused.
KEYS = ("k_proj", "qkv_proj", "query_key_value")
# All experts of a layer in one tensor, as Llama 4, gpt-oss, Qwen3-VL-MoE and GraniteMoE are stored.
_JOINED = re.compile(r"\.experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj|mlp|w\d)|_moe\.(?:in|out)put_linear\.")
# Routed experts; those that every token passes are called `shared_experts`.
_EXPERTS = re.compile(r"(?:^|\.)experts(?:\.|$)")


class Part(Enum):
    """Part of a checkpoint by what a step of text reads of it."""

    LAYERS = "read whole: decoder layers, and norms and projections around them"
    EXPERTS = "routed experts, of which a step reads those that its tokens choose"
    HEAD = "the output layer"
    EMBEDDING = "the vocabulary's embedding, of which a token reads a row"
    UNREAD = "towers for images and sound, layers that draft tokens, rows of other embeddings"


@dataclass(frozen=True)
class Linear:
    """A Linear module of a decoder layer.

    Attributes:
        name: as in the checkpoint, without `.weight`.
        layer: number of the decoder layer.
        shape: (out, in).
    """

    name: str
    layer: int
    shape: tuple[int, int]

    @property
    def is_dense(self) -> bool:
        """True if it belongs to no expert: every token takes it."""
        return ".experts." not in self.name

    @property
    def expert(self) -> int | None:
        """Number of the expert that it belongs to; None outside of experts."""
        found = re.search(r"\.experts\.(\d+)\.", self.name)
        return int(found[1]) if found else None


def decoder_linears(tensors: Stored, config: Mapping[str, Any]) -> dict[str, Linear]:
    """Return the Linears of a BF16 checkpoint that formats quantize, by name in the order of its tensors.

    Args:
        tensors: type and shape of every tensor of the checkpoint.
        config: content of config.json.
    """
    layers = text_config(config).get("num_hidden_layers")
    found = {}
    for tensor, (_, shape) in tensors.items():
        name = tensor.removesuffix(".weight")
        layer = _LAYER.search(tensor)
        if layer and name != tensor and len(shape) == 2 and is_decoder_linear(name, layers):
            found[name] = Linear(name, int(layer[1]), (shape[0], shape[1]))
    return found


def joined_experts(tensors: Iterable[str]) -> str:
    """Return the name of a tensor that holds all experts of a layer; empty if each expert has its own."""
    return next((name for name in tensors if _JOINED.search(name)), "")


def part_of(name: str, layers: int | None = None) -> Part:
    """Return the part that a tensor or module of a checkpoint belongs to.

    Args:
        name: of the tensor or module.
        layers: decoder layers of the model, without those that draft tokens.
    """
    components = name.split(".")
    if _OUTSIDE.search(f"{name}."):
        return Part.UNREAD
    if layer := _LAYER.search(f"{name}."):
        if layers is not None and int(layer[1]) >= layers:
            return Part.UNREAD
        return Part.EXPERTS if _EXPERTS.search(name) else Part.LAYERS
    own = {Part.HEAD: HEADS, Part.EMBEDDING: EMBEDDINGS}
    if found := next((part for part, names in own.items() if names & set(components)), None):
        return found
    return Part.UNREAD if any("embed" in each for each in components) else Part.LAYERS


def fusion_group(name: str) -> str:
    """Return the name that the Linears share which vLLM loads as one: that of the first of them."""
    parent, _, own = name.rpartition(".")
    return f"{parent}.{next((names[0] for names in FUSED if own in names), own)}"


def loaded_as_one(linears: Mapping[str, Linear]) -> dict[str, list[Linear]]:
    """Return the Linears that vLLM loads as one weight, which have one format: q, k and v; gate and up; all experts.

    Args:
        linears: of a decoder, by name.

    Returns:
        The Linears of each group in order, by the name of the first, or of the experts' module.
    """
    found: dict[str, list[Linear]] = {}
    for name, linear in linears.items():
        group = fusion_group(name) if linear.is_dense else f"{name.partition('.experts.')[0]}.experts"
        found.setdefault(group, []).append(linear)
    return found


def attentions(tensors: Iterable[str]) -> list[str]:
    """Return the modules of a checkpoint's tensors that cache keys and values, in order."""
    found = []
    for tensor in tensors:
        parent, _, own = tensor.removesuffix(".weight").rpartition(".")
        if own in KEYS and in_decoder(parent) and not _stays(parent):
            found.append(parent)
    return list(dict.fromkeys(found))


def kept_matrices(tensors: Stored, config: Mapping[str, Any]) -> list[str]:
    """Return the matrices of layers that stay in BF16 in every format, by module."""
    layers = text_config(config).get("num_hidden_layers")
    names = [tensor.removesuffix(".weight") for tensor, (_, shape) in tensors.items() if len(shape) == 2]
    return [name for name in names if _LAYER.search(name) and not is_decoder_linear(name, layers)]


def is_decoder_linear(name: str, layers: int | None = None) -> bool:
    """Return True if the name of a Linear is one of a decoder layer that formats quantize.

    Args:
        name: of a module of the model.
        layers: decoder layers of the model, without those that draft tokens.
    """
    return in_decoder(name, layers) and not _stays(name)


def in_decoder(name: str, layers: int | None = None) -> bool:
    """Return True if a module lies in a decoder layer."""
    return _LAYER.search(f"{name}.") is not None and not is_beside(name, layers)


def is_beside(name: str, layers: int | None = None) -> bool:
    """Return True if a module or tensor is of a tower for images or sound, or of a layer that drafts tokens.

    Args:
        name: of a module or tensor.
        layers: decoder layers of the model; layers beyond draft tokens.
    """
    layer = _LAYER.search(f"{name}.")
    drafts = layer is not None and layers is not None and int(layer[1]) >= layers
    return drafts or _OUTSIDE.search(f"{name}.") is not None


def _stays(name: str) -> bool:
    """Return True if a matrix of a decoder layer stays in BF16."""
    parent, _, own = name.rpartition(".")
    is_router = own in ROUTERS or parent.rpartition(".")[2] in ROUTERS
    return is_router or own in SMALL or "norm" in own or "embed" in own


def matched(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the modules that are named, or matched by a pattern `re:...`, as in llm-compressor."""
    rules = [
        pattern.removeprefix("re:") if pattern.startswith("re:") else f"{re.escape(pattern)}$" for pattern in patterns
    ]
    return [name for name in names if any(re.match(rule, name) for rule in rules)]


def check_ignore(linears: Iterable[str], patterns: Sequence[str], variant: str) -> None:
    """Reject names and patterns of `quant.ignore` that match no module.

    Args:
        linears: names of the decoder's Linears.
        patterns: the setting.
        variant: name of the variant, for the message.

    Raises:
        ConfigError: naming the pattern, with names that it could have meant.
    """
    names = [*linears, "lm_head"]
    if "lm_head" not in matched(["lm_head"], patterns):
        raise ConfigError(
            f"quant.ignore={list(patterns)} of {variant}: lm_head would be quantized, which vLLM does not serve.",
            f"Set quant.ignore=[{', '.join(['lm_head', *patterns])}].",
        )
    unmatched = [pattern for pattern in patterns if not matched(names, [pattern])]
    if unmatched:
        verb = "matches" if len(unmatched) == 1 else "match"
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
        example = f"re:.*{kinds[0]}" if len(kinds) > 1 else names[0]
        raise ConfigError(
            f"quant.ignore of {variant}: {', '.join(unmatched)} {verb} no module of the model.",
            f"Name whole modules ({names[0]}) or patterns that match from the start ('{example}'); the decoder's "
            f"Linears are {', '.join(kinds[:12])}.",
        )
