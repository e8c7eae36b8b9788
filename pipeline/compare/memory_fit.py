"""Whether a variant fits into a GPU of another size, from what its server held on this one.

What is neither weights nor KV cache (activations, CUDA graphs, the context of CUDA itself) is taken over from where it
was measured; where that was no GPU it is not known, and a figure counts without it and says so.
"""

from __future__ import annotations

from pipeline.results.base import Frozen, Missing
from pipeline.results.bench import Memory

# vLLM's default share of the memory that a server takes.
UTILIZATION = 0.9
GPU_PEAK = "the GPU's memory in use"


class Fit(Frozen):
    """What is left for the KV cache on a GPU of `gigabytes`.

    Attributes:
        gigabytes: 10^9 bytes of memory.
        kv_tokens: tokens whose keys and values have room; 0 where the weights alone do not fit.
        overhead_bytes: what the server holds beside weights and KV cache; None where it was not measured on a GPU.
    """

    gigabytes: float
    kv_tokens: int
    overhead_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether anything can be served at all."""
        return self.kv_tokens > 0


def fit(memory: Memory | None, gigabytes: float = 24, utilization: float = UTILIZATION) -> Fit | Missing:
    """Room for the KV cache on a GPU of that size.

    Args:
        memory: what a benchmark recorded.
        gigabytes: of the other GPU, 10^9 bytes.
        utilization: share of it that the server may take.
    """
    if memory is None or memory.weights_bytes is None:
        return Missing(reason="what the server holds was not recorded")
    if memory.kv_bytes_per_token is None:
        return Missing(reason="the size of a token's keys and values is not known")
    overhead = None
    if memory.peak_of == GPU_PEAK and memory.peak_bytes is not None and memory.kv_cache_bytes is not None:
        overhead = max(0, memory.peak_bytes - memory.weights_bytes - memory.kv_cache_bytes)
    free = utilization * gigabytes * 1e9 - memory.weights_bytes - (overhead or 0)
    return Fit(gigabytes=gigabytes, kv_tokens=max(0, int(free // memory.kv_bytes_per_token)), overhead_bytes=overhead)
