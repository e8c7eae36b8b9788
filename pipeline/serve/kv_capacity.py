"""Whether the KV cache that vLLM sets aside on a CPU holds the context, known before it is started."""

from __future__ import annotations

import math

from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.hardware.probe import Hardware
from pipeline.models.architecture import has_windows, kv_bytes_per_token
from pipeline.models.source import ModelSource

# Tokens of a block of vLLM's KV cache on a CPU.
BLOCK = 128


def check_context(settings: Settings, model: ModelSource, hardware: Hardware) -> None:
    """Refuses a context that the KV cache could not hold once; vLLM does so when its engine is up.

    Raises:
        ConfigError: with the longest context that there is room for, and the room that this one takes.
    """
    serve = settings.serve
    is_told_otherwise = any(part.startswith(("--max-model-len", "--block-size")) for part in serve.extra_args)
    if hardware.device != "cpu" or serve.url is not None or is_told_otherwise or has_windows(model.config):
        return
    tokens, each = model.context(serve.max_model_len), kv_bytes_per_token(model.config, settings.kv_cache.dtype)
    room = int(serve.cpu_kv_cache_gib * 2**30)
    if tokens is None or each is None or tokens * each <= room:
        return
    held, needed = room // each // BLOCK * BLOCK, math.ceil(10 * tokens * each / 2**30) / 10
    shorter = f"Set serve.max_model_len={held}, or" if held else "Set"
    raise ConfigError(
        f"serve.cpu_kv_cache_gib={serve.cpu_kv_cache_gib:g} on model={settings.model.name}: the KV cache holds "
        f"{room // each:,} tokens of {each / 1024:,.0f} KiB, and the context is {tokens:,}.",
        f"{shorter} serve.cpu_kv_cache_gib={needed:g}.",
    )
