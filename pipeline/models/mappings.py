"""Layers in front of each Linear by llm-compressor's mappings, which AWQ and SmoothQuant divide for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from pipeline.errors import UnknownFormat
from pipeline.hardware.architectures import mapped
from pipeline.models.architecture import has_towers, text_config
from pipeline.models.modules import in_decoder

# Pattern of the layer in front, patterns of the Linears behind it, as in llm-compressor: `re:` or a full name.
Pairs = list[tuple[str, list[str]]]
ENGINE = "llmcompressor"
# Modules of a layer whose mapping llm-compressor takes where it does not know an architecture.
LLAMA = (
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
# Norms of queries and keys, and stored frequencies, lie inside of the attention, behind what is multiplied.
_INSIDE_ATTENTION = re.compile(r"self_attn\.(\w*norm$|rotary_emb\.)")
# Whatever is in front of the decoder's layers in a multimodal checkpoint.
_BEFORE_LAYERS = re.compile(r"^.*?(?=\blayers\.\d)")
# A module's name in its layer.
_IN_LAYER = re.compile(r"\b(?:layers|h|blocks)\.\d+\.(.+?)(?:\.(?:weight|bias))?$")


def rescaled_by(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], algorithm: str, engine: str
) -> dict[str, str]:
    """Return the module that an algorithm divides by what it multiplies each Linear with; absent: left as it is.

    Args:
        config: content of the BF16 checkpoint's config.json.
        shapes: shapes of the BF16 checkpoint's tensors by module.
        algorithm: `awq` or `smoothquant`.
        engine: what rescaled; others than llm-compressor have mappings of their own, alike in what both know.

    Raises:
        UnknownFormat: if the engine's mapping of the architecture is not known.
    """
    modules = _modules(config, shapes)
    found = _resolved(_pairs(config, modules, algorithm, only_registered=engine != ENGINE), modules)
    pairs = {modules[module]: modules[maker] for module, maker in found.items()}
    return {module: maker for module, maker in pairs.items() if _fits(maker, module, shapes)}


def makers(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the norm or Linear that makes the inputs of each Linear, where llm-compressor's mappings know one."""
    modules = _modules(config, shapes)
    own = _resolved(_pairs(config, modules, "awq", only_registered=False), modules)
    found = _resolved(_pairs({}, modules, "awq", only_registered=False), modules) | own
    return {modules[module]: modules[maker] for module, maker in found.items()}


def why_unmapped(config: Mapping[str, Any], tensors: Iterable[str], algorithm: str) -> str:
    """Return why llm-compressor's mapping does not fit an architecture that it does not know; empty if it may.

    It takes Llama's names then: a norm that other modules read as well, or one in between, makes another model.

    Args:
        config: content of the BF16 checkpoint's config.json.
        tensors: names of its tensors; without any, nothing is said.
        algorithm: `awq` or `smoothquant`.
    """
    architecture = str(next(iter(config.get("architectures") or ()), "an unnamed architecture"))
    if architecture in mapped(algorithm):
        return ""
    layers = text_config(config).get("num_hidden_layers")
    found = {match[1] for name in tensors if in_decoder(name, layers) and (match := _IN_LAYER.search(name))}
    own = {name for name in found if not _INSIDE_ATTENTION.match(name)}
    if not own or own == set(LLAMA):
        return ""
    more, lacking = sorted(own - set(LLAMA)), [name for name in LLAMA if name not in own]
    differ = f"have {more[0]} beside" if more else f"have no {lacking[0]}"
    return f"knows no norms and Linears of {architecture} and takes Llama's, but its layers {differ}"


def decoder_mappings(model: Any, algorithm: str) -> list[Any] | None:
    """Return llm-compressor's mappings for the decoder of a multimodal model alone; None for other models.

    Its towers have Linears of the same names, which the mappings would be resolved with.

    Args:
        model: the model, by transformers.
        algorithm: `awq` or `smoothquant`.
    """
    if not has_towers(model.config.to_dict()):
        return None
    body = model.get_decoder()
    (prefix,) = (name for name, module in model.named_modules() if module is body)

    def inside(pattern: str) -> str:
        own = pattern.removeprefix("re:")
        return pattern if own == pattern else rf"re:(?={re.escape(prefix)}\.){own}"

    if algorithm == "awq":
        from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq

        return [
            replace(each, smooth_layer=inside(each.smooth_layer), balance_layers=[*map(inside, each.balance_layers)])
            for each in awq.get_layer_mappings_from_model(model)
        ]
    from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings as smoothquant

    found = smoothquant.get_layer_mappings_from_model(model)
    return [([*map(inside, each.balance_layers)], inside(each.smooth_layers)) for each in found]


def _modules(config: Mapping[str, Any], shapes: Iterable[str]) -> dict[str, str]:
    """Return the modules of the decoder's layers, by the names that llm-compressor's patterns expect."""
    layers = text_config(config).get("num_hidden_layers")
    inside = [name for name in shapes if in_decoder(name, layers)]
    if not has_towers(config):
        return {name: name for name in inside}
    return {_BEFORE_LAYERS.sub("model.language_model.", name): name for name in inside}


def _pairs(config: Mapping[str, Any], modules: Iterable[str], algorithm: str, only_registered: bool) -> Pairs:
    from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq
    from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings as smoothquant
    from loguru import logger

    architecture = str(next(iter(config.get("architectures") or ()), ""))
    if only_registered and architecture not in awq.AWQ_MAPPING_REGISTRY:
        raise UnknownFormat(f"{architecture or 'an unnamed architecture'}: which layers are rescaled together")
    # All that the registries read of a model is its class, its config and the names of its modules.
    model = type(architecture or "Model", (), {})()
    model.config = SimpleNamespace(**text_config(config))
    model.named_modules = lambda: ((name, None) for name in modules)
    logger.disable("llmcompressor")
    try:
        if algorithm == "awq":
            return [(each.smooth_layer, each.balance_layers) for each in awq.get_layer_mappings_from_model(model)]
        return [(each.smooth_layers, each.balance_layers) for each in smoothquant.get_layer_mappings_from_model(model)]
    finally:
        logger.enable("llmcompressor")


def _resolved(pairs: Pairs, modules: Iterable[str]) -> dict[str, str]:
    """Return the layer in front of each module: of those that the pattern names, the one nearest in the tree."""
    found: dict[str, str] = {}
    for front, behind in pairs:
        near: dict[str, str] = {}
        for maker in filter(_matcher([front]), modules):
            for place in _places(maker):
                near.setdefault(place, maker)
        for module in filter(_matcher(behind), modules):
            nearest = next((near[place] for place in _places(module) if place in near), None)
            if nearest is not None:
                found.setdefault(module, nearest)
    return found


def _matcher(patterns: list[str]) -> Any:
    rules = [
        re.compile(each.removeprefix("re:") if each.startswith("re:") else f"{re.escape(each)}$") for each in patterns
    ]
    return lambda name: any(rule.match(name) for rule in rules)


def _places(module: str) -> Iterator[str]:
    """Yield a module's ancestors, nearest first, up to its decoder layer: the last that has a number in its path."""
    parts = module.split(".")[:-1]
    while any(part.isdecimal() for part in parts):
        yield ".".join(parts)
        parts.pop()


def _fits(maker: str, module: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether one makes the channels that the other takes: AWQ passes over heads that several queries share."""
    made, taken = shapes[maker][0], shapes[module][-1]
    if module.endswith(".o_proj"):
        return made == (3 if maker.endswith(".qkv_proj") else 1) * taken
    return made >= taken
