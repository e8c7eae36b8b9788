"""Model architectures that installed packages know, parsed from their sources: importing them takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# Tables of vLLM's registry whose models write no text.
NOT_DECODERS = {
    "_EMBEDDING_MODELS": "an embedding model",
    "_LATE_INTERACTION_MODELS": "a late-interaction retrieval model",
    "_REWARD_MODELS": "a reward model",
    "_TOKEN_CLASSIFICATION_MODELS": "a token classifier",
    "_SEQUENCE_CLASSIFICATION_MODELS": "a sequence classifier",
    "_SPECULATIVE_DECODING_MODELS": "a draft model of speculative decoding",
}
# The table that merges all others, and those that say why a model is not served any more.
# Tables of transformers with the models that it loads as decoders, with or without towers for images and sound.
_LOADED = tuple(f"MODEL_FOR_{kind}_MAPPING_NAMES" for kind in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"))
_MERGED, _FORMER, _PLUGINS = "_VLLM_MODELS", "_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS"
# End of the names of llm-compressor's tables of mappings by architecture, and AutoAWQ's table of types.
_MAPPINGS, _AUTOAWQ = "_REGISTRY", "AWQ_CAUSAL_LM_MODEL_MAP"


@dataclass(frozen=True)
class Registry:
    """Registry of a vLLM.

    Attributes:
        decoders: architectures that it serves as a text generator; empty if no registry was found.
        others: by architecture, what a model is that writes no text.
        former: by architecture, why this vLLM does not serve it any more.
    """

    decoders: frozenset[str] = frozenset()
    others: dict[str, str] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)


@cache
def registry() -> Registry:
    """Return the registry of the installed vLLM, parsed from its source."""
    return parse(_text("vllm", "model_executor/models/registry.py"))


@cache
def decoder_types() -> frozenset[str]:
    """Return the types of models that the installed transformers loads as decoders, parsed from its source.

    It is empty if transformers is not installed.
    """
    return types_in(_text("transformers", "models/auto/modeling_auto.py"))


@cache
def mapped(algorithm: str) -> frozenset[str]:
    """Return the architectures whose norms and Linears llm-compressor maps for an algorithm, parsed from its source.

    Args:
        algorithm: `awq` or `smoothquant`.
    """
    files = ("mappings.py", "dynamic_mappings.py", "utils.py")
    texts = [_text("llmcompressor", f"modifiers/transform/{algorithm}/{file}") for file in files]
    tables = [table for text in texts for name, table in _tables(text) if name.endswith(_MAPPINGS)]
    return frozenset(name for table in tables for name in _names(table))


@cache
def autoawq_types() -> frozenset[str]:
    """Return the types of models that the installed AutoAWQ has code for; empty if it is not installed."""
    return frozenset(_names(dict(_tables(_text("awq", "models/auto.py"))).get(_AUTOAWQ)))


def _text(package: str, file: str) -> str:
    """Return a source file of an installed package, which is not imported; empty if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ""
    path = Path(spec.submodule_search_locations[0], file)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def types_in(source: str) -> frozenset[str]:
    """Return the types that transformers' tables of decoders name as pairs of a type and a class."""
    tables = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and {getattr(each, "id", "") for each in node.targets} & set(_LOADED)
    ]
    pairs = [each.elts for table in tables for each in ast.walk(table) if isinstance(each, ast.Tuple) and each.elts]
    return frozenset(str(pair[0].value) for pair in pairs if isinstance(pair[0], ast.Constant))


def parse(source: str) -> Registry:
    """Return the registry that a `registry.py` of vLLM holds as literal dicts.

    What vLLM serves is merged into one dict, `_VLLM_MODELS`, so that a table of a later release counts as well.
    """
    tables = dict(_tables(source))
    merged = tables.get(_MERGED)
    served = [value.id for value in merged.values if isinstance(value, ast.Name)] if merged else []
    decoders = {name for table in served if table not in NOT_DECODERS for name in _names(tables.get(table))}
    others = {name: kind for table, kind in NOT_DECODERS.items() for name in _names(tables.get(table))}
    former = {name: f"is served by a plugin of vLLM alone ({place})" for name, place in _texts(tables.get(_PLUGINS))}
    former |= {name: f"was last served by vLLM {version}" for name, version in _texts(tables.get(_FORMER))}
    return Registry(frozenset(decoders), {name: others[name] for name in others if name not in decoders}, former)


def _tables(source: str) -> list[tuple[str, ast.Dict]]:
    """Return the dicts that a module assigns at its top."""
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found += [(target.id, node.value) for target in targets if isinstance(target, ast.Name)]
    return found


def _names(table: ast.Dict | None) -> list[str]:
    return [str(key.value) for key in table.keys if isinstance(key, ast.Constant)] if table else []


def _texts(table: ast.Dict | None) -> list[tuple[str, str]]:
    if table is None:
        return []
    pairs = zip(table.keys, table.values, strict=True)
    return [
        (str(key.value), str(value.value))
        for key, value in pairs
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    ]
