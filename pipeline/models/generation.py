"""Sampling parameters of a checkpoint's generation_config.json, which vLLM gives requests that name none.

Every engine copies the file byte for byte. Servers started here give requests vLLM's neutral parameters instead
(`--generation-config vllm`), so that benchmarks and evaluations decode alike; its end-of-text tokens count always.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pipeline.json_files import parse_json

FILE = "generation_config.json"
PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
# What vLLM does without the file.
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **PENALTIES}
# A request that decodes greedily, whatever the server gives others.
GREEDY = {**NEUTRAL, "temperature": 0}
SOURCE, OVERRIDE = "--generation-config", "--override-generation-config"
# Of the file it would limit every reply of the server; a benchmark or a task says how long replies are.
WITHOUT_LIMIT = '{"max_new_tokens": null}'


def named(folder: Path) -> dict[str, float]:
    """Return the sampling parameters that a checkpoint's file names, as far as they are not neutral."""
    try:
        content = parse_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return _parameters(content)


def applied(arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Return the sampling parameters that a server gives requests that name none, as far as they are not neutral.

    Args:
        arguments: vLLM's, of which a later one replaces an earlier one.
        folder: the checkpoint.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    given = dict(pairwise(words))
    # A folder, if it is neither word.
    source = given.get(SOURCE, "auto")
    found = {} if source == "vllm" else named(folder if source == "auto" else Path(source))
    try:
        return found | _parameters(parse_json(given.get(OVERRIDE, "{}")))
    except ValueError:
        return found


def _parameters(content: object) -> dict[str, float]:
    known = content if isinstance(content, dict) else {}
    return {
        name: known[name]
        for name, neutral in NEUTRAL.items()
        if isinstance(known.get(name), int | float) and known[name] != neutral
    }
