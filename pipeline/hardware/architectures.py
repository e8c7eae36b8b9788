"""Model architectures that the installed vLLM serves."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path


@cache
def served_architectures() -> frozenset[str]:
    """Return the decoder architectures that the installed vLLM serves, read from its registry's source.

    Importing vLLM takes seconds; its registry is a literal dict that can be parsed without. Empty if it is not found.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0], "model_executor", "models", "registry.py")
    if not source.is_file():
        return frozenset()
    names: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
        value = getattr(node, "value", None)
        if getattr(target, "id", "") in (
            "_TEXT_GENERATION_MODELS",
            "_MULTIMODAL_MODELS",
        ) and isinstance(value, ast.Dict):
            names |= {str(key.value) for key in value.keys if isinstance(key, ast.Constant)}
    return frozenset(names)
