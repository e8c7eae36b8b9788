"""Memory of the server on each of its GPUs: weights, KV cache, and the observed peak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.config import Stage
from pipeline.models.architecture import kv_bytes_per_token
from pipeline.models.shapes import kv_parts
from pipeline.results.base import Missing, read
from pipeline.results.bench import Conditions, Memory
from pipeline.results.quantize import QuantizeResult

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.serve.server import Target


def memory(job: Job, server: Target, conditions: Sequence[Conditions]) -> Memory:
    """Return the bytes of each part; None if unknown, as for a server that the user runs."""
    weights = per_token = tokens = None
    if job.settings.serve.url is None:
        gpus = job.settings.serve.tensor_parallel
        weights = _part(_weights(job), gpus)
        per_token = _part(
            kv_bytes_per_token(job.model.config, job.settings.kv_cache.dtype), kv_parts(job.model.config, gpus)
        )
        tokens = server.facts().kv_cache_tokens
    return Memory(
        weights_bytes=weights,
        kv_bytes_per_token=per_token,
        kv_cache_tokens=tokens,
        kv_cache_bytes=tokens * per_token if tokens and per_token else None,
        peak_bytes=max((each.peak_memory_bytes for each in conditions if each.peak_memory_bytes), default=None),
        peak_of="the GPU's memory in use" if job.hardware.device == "cuda" else "what the server's processes held",
    )


def _part(size: int | None, gpus: int) -> int | None:
    return None if size is None else math.ceil(size / gpus)


def _weights(job: Job) -> int | None:
    """Return the bytes of the checkpoint's files."""
    manifest = job.artifact(Stage.QUANTIZE).manifest()
    made = read(QuantizeResult, manifest) if manifest else None
    return None if made is None or isinstance(made, Missing) else made.bytes
