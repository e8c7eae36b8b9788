"""What the server holds in memory: weights, KV cache, and the most that was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config import Stage
from pipeline.models.architecture import kv_bytes_per_token

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.serve.server import Target


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
