"""Tokens of two tokenizers, compared by what tokenizer.json means: libraries write the same one in several ways."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.json_files import parse_json

TOKENIZER = "tokenizer.json"


def first_difference(folder: Path, source: Path) -> str:
    """Return the first difference between the tokens of two checkpoints; empty if there is none, or none is known.

    Args:
        folder: the checkpoint that is compared.
        source: the one it is compared with.
    """
    own, original = folder / TOKENIZER, source / TOKENIZER
    if not (own.is_file() and original.is_file()) or filecmp.cmp(own, original, shallow=False):
        return ""
    mine, yours = _content(own), _content(original)
    try:
        return _difference(mine, yours)
    except (AttributeError, LookupError, TypeError, ValueError):
        # One of them is no tokenizer that libraries write, and whoever loads it says so.
        return ""


def _difference(mine: Mapping[str, Any], yours: Mapping[str, Any]) -> str:
    tokens, others = _tokens(mine), _tokens(yours)
    for token in sorted(tokens.keys() | others, key=lambda token: others.get(token, len(others))):
        if tokens.get(token) != others.get(token):
            return f"the token {token!r} as {_number(tokens, token)}, not {_number(others, token)}"
    return "" if _merges(mine) == _merges(yours) else "other merges of tokens"


def is_compared(folder: Path, source: Path) -> bool:
    """Return whether both checkpoints have a tokenizer that can be compared."""
    return (folder / TOKENIZER).is_file() and (source / TOKENIZER).is_file()


def _number(tokens: Mapping[str, int], token: str) -> str:
    return f"number {tokens[token]}" if token in tokens else "none"


def _content(path: Path) -> Mapping[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tokens(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each token; unigram models list theirs with a score each."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if not isinstance(vocabulary, Mapping):
        vocabulary = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    return {**vocabulary, **{each["content"]: each["id"] for each in tokenizer.get("added_tokens") or []}}


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the merges, each as two tokens; older libraries write them as one text."""
    merges = (tokenizer.get("model") or {}).get("merges") or []
    return [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in merges]
