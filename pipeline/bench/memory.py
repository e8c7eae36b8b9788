"""What the server holds in memory: weights, KV cache, and the most that was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config import Stage

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.serve.server import Target

CACHE_BYTES = {"auto": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


def memory(job: Job, server: Target, conditions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bytes of each part.

    Returns:
        `weights_bytes` (of the checkpoint's files), `kv_bytes_per_token`, `kv_cache_tokens` and `kv_cache_bytes` (what
        vLLM set aside), `peak_bytes` (on a GPU all of its memory in use, else what the server's processes held);
        None for what is not known, as of a server that is not ours.
    """
    peaks = [peak for each in conditions if (peak := each.get("peak_memory_bytes"))]
    found: dict[str, Any] = {
        "weights_bytes": None,
        "kv_bytes_per_token": None,
        "kv_cache_tokens": None,
        "kv_cache_bytes": None,
    }
    if job.settings.serve.url is None:
        made = job.artifact(Stage.QUANTIZE).manifest()
        per_token = kv_bytes_per_token(job.model.config, job.settings.kv_cache.dtype)
        tokens = server.facts()["kv_cache_tokens"]
        found = {
            "weights_bytes": made.results.get("bytes") if made else None,
            "kv_bytes_per_token": per_token,
            "kv_cache_tokens": tokens,
            "kv_cache_bytes": tokens * per_token if tokens and per_token else None,
        }
    of = "the GPU's memory in use" if job.hardware.device == "cuda" else "what the server's processes held"
    return {**found, "peak_bytes": max(peaks, default=None), "peak_of": of}


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int | None:
    """Bytes of one token's keys and values over all layers; None for an attention of another kind.

    2 (keys and values) x layers x KV heads x head size x bytes of a number.
    """
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads")
    layers, kv_heads = config.get("num_hidden_layers"), config.get("num_key_value_heads", heads)
    size = config.get("head_dim") or (config["hidden_size"] // heads if heads and "hidden_size" in config else None)
    if not (layers and kv_heads and size) or "kv_lora_rank" in config:
        return None
    return int(2 * layers * kv_heads * size * CACHE_BYTES[dtype])
