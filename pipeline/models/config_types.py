"""Types of the fields of a config.json that are read here; a field of another type is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.errors import InputError


class Kind(NamedTuple):
    """A type in words, and whether a value is of it; null stands for a field that is not there."""

    words: str
    holds: Callable[[object], bool]


# Larger than any shape, and small enough to be multiplied and printed.
LARGEST = 2**53
WHOLE = Kind("a whole number that is not negative", lambda value: type(value) is int and 0 <= value <= LARGEST)
# Some families have widths and heads that differ by layer.
BY_LAYER = Kind(
    "a whole number, or one for each layer",
    lambda value: all(map(WHOLE.holds, value if isinstance(value, list) else [value])),
)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
# By names as they are spelled in the families' configs.
KINDS = (
    (re.compile(r"architectures|layer_types"), TEXTS),
    (re.compile(r".*_config|compression_config|auto_map|rope_(parameters|scaling)"), OBJECT),
    (re.compile(r"model_type|dtype|torch_dtype|transformers_version|hidden_act"), TEXT),
    (re.compile(r"tie_word_embeddings|attention_bias|mlp_bias"), FLAG),
    (
        re.compile(
            r"(head|v_head|qk_nope_head|qk_rope_head)_dim|hidden_size|(q|kv)_lora_rank|vocab_size"
            r"|(num|n)_(hidden_layers|layers|(local_|routed_|shared_)?experts)|max_position_embeddings"
            r"|moe_num_experts|num_experts_per_tok(en)?|num_nextn_predict_layers|first_k_dense_replace"
        ),
        WHOLE,
    ),
    (re.compile(r"num_(attention|key_value)_heads|(moe_|shared_expert_)?intermediate_size"), BY_LAYER),
)
# Parts of a config that are read like the whole.
PARTS = ("text_config",)


def check_types(config: Mapping[str, Any], source: str) -> None:
    """Refuse a config.json with a field that is read here and of another type than it is read as.

    Args:
        config: content of config.json.
        source: setting and value that name the model.

    Raises:
        InputError: naming the field and its value.
    """
    for name, value, kind in _wrong(config):
        raise InputError(
            f"{source}: config.json has {name}={str(value)[:100]}, which is not {kind.words}.",
            "Fetch config.json again.",
        )


def _wrong(config: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, object, Kind]]:
    for name, value in config.items():
        kind = next((kind for pattern, kind in KINDS if pattern.fullmatch(name)), None)
        if kind is not None and value is not None and not kind.holds(value):
            yield at + name, value, kind
        elif name in PARTS and value is not None:
            yield from _wrong(value, f"{name}.")
