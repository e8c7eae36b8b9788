"""Check that the KV cache vLLM reserves on a CPU holds the context, before vLLM is started."""

from __future__ import annotations

import math

from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.hardware.probe import Hardware
from pipeline.models.architecture import has_windows, kv_bytes_per_token
from pipeline.models.shapes import kv_parts
from pipeline.models.source import ModelSource

# Tokens per block of vLLM's KV cache on a CPU.
BLOCK = 128


def check_context(settings: Settings, model: ModelSource, hardware: Hardware) -> None:
    """Refuse a context that does not fit into the KV cache; vLLM itself does so only after its engine has started.

    Raises:
        ConfigError: with the longest context that fits, and the cache size that this context needs.
    """
    serve = settings.serve
    is_overridden = any(part.startswith(("--max-model-len", "--block-size")) for part in serve.extra_args)
    if hardware.device != "cpu" or serve.url is not None or is_overridden or has_windows(model.config):
        return
    tokens, bytes_per_token = (
        model.context(serve.max_model_len),
        kv_bytes_per_token(model.config, settings.kv_cache.dtype),
    )
    # Of each process that shares the heads, which has a cache of that size.
    room = int(serve.cpu_kv_cache_gib * 2**30) * kv_parts(model.config, serve.tensor_parallel)
    if tokens is None or bytes_per_token is None or tokens * bytes_per_token <= room:
        return
    longest = room // bytes_per_token // BLOCK * BLOCK
    needed = math.ceil(10 * serve.cpu_kv_cache_gib * tokens * bytes_per_token / room) / 10
    shorter = f"Set serve.max_model_len={longest}, or" if longest else "Set"
    raise ConfigError(
        f"serve.cpu_kv_cache_gib={serve.cpu_kv_cache_gib:g} on model={settings.model.name}: the KV cache holds "
        f"{room // bytes_per_token:,} tokens of {bytes_per_token / 1024:,.0f} KiB, and the context is {tokens:,}.",
        f"{shorter} serve.cpu_kv_cache_gib={needed:g}.",
    )
