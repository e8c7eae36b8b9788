"""The fit of a variant into a GPU of another size, from the measured memory of its server.

The overhead besides weights and KV cache (activations, CUDA graphs, the CUDA context) is taken from the measurement. If
that was not on a GPU the overhead is unknown, and the result excludes it and says so.
"""

from __future__ import annotations

from pipeline.results.base import Frozen, Missing
from pipeline.results.bench import Memory

# vLLM's default share of GPU memory.
UTILIZATION = 0.9
GPU_PEAK = "the GPU's memory in use"


class Fit(Frozen):
    """The room for the KV cache on a GPU of `gigabytes`.

    Attributes:
        gigabytes: 10^9 bytes of memory.
        kv_tokens: tokens that fit the KV cache; 0 if the weights alone do not fit.
        overhead_bytes: memory besides weights and KV cache; None if it was not measured on a GPU.
    """

    gigabytes: float
    kv_tokens: int
    overhead_bytes: int | None

    @property
    def fits(self) -> bool:
        """True if at least one token fits the KV cache."""
        return self.kv_tokens > 0


def fit(memory: Memory | None, gigabytes: float = 24, utilization: float = UTILIZATION) -> Fit | Missing:
    """Return the room for the KV cache on a GPU of that size.

    Args:
        memory: the memory that a benchmark recorded.
        gigabytes: memory of the other GPU, 10^9 bytes.
        utilization: share of it that the server may use.
    """
    if memory is None or memory.weights_bytes is None:
        return Missing(reason="the server's memory was not recorded")
    if memory.kv_bytes_per_token is None:
        return Missing(reason="the KV-cache size per token is not known")
    overhead = None
    if memory.peak_of == GPU_PEAK and memory.peak_bytes is not None and memory.kv_cache_bytes is not None:
        overhead = max(0, memory.peak_bytes - memory.weights_bytes - memory.kv_cache_bytes)
    free = utilization * gigabytes * 1e9 - memory.weights_bytes - (overhead or 0)
    return Fit(gigabytes=gigabytes, kv_tokens=max(0, int(free // memory.kv_bytes_per_token)), overhead_bytes=overhead)
