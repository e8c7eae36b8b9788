"""vLLM's own counters, read from its Prometheus endpoint `/metrics`.

Counters only grow, so a load's share is the difference of two readings; gauges are sampled while the load runs. Other
servers use other names or have none: a missing figure is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pipeline.serve import access

COUNTERS = {
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    # Of a cache outside the engine (a KV connector, as LMCache's).
    "external_prefix_queries": "vllm:external_prefix_cache_queries_total",
    "external_prefix_hits": "vllm:external_prefix_cache_hits_total",
    "preemptions": "vllm:num_preemptions_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "queue_s": "vllm:request_queue_time_seconds_sum",
    "queued": "vllm:request_queue_time_seconds_count",
    # From the first scheduling to the last token in the engine, and from arrival to the last token in the API server.
    "inference_s": "vllm:request_inference_time_seconds_sum",
    "latency_s": "vllm:e2e_request_latency_seconds_sum",
}
GAUGES = {
    "kv_cache_usage": "vllm:kv_cache_usage_perc",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
}


@dataclass(frozen=True)
class Reading:
    """One sample of the endpoint: the values of all engines added up, by the names above."""

    values: Mapping[str, float]

    def since(self, earlier: Reading) -> dict[str, float | None]:
        """Return the growth of each counter; None for a missing one."""
        return {
            name: self.values[name] - earlier.values.get(name, 0.0) if name in self.values else None
            for name in COUNTERS
        }


def parse(text: str) -> Reading:
    """Parse the text format; a usage is the mean over engines, everything else their sum. NaN counts as missing.

    Raises:
        ValueError: when it is not that format.
    """
    wanted = {metric: name for name, metric in {**COUNTERS, **GAUGES}.items()}
    found: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in wanted:
                    found.setdefault(wanted[sample.name], []).append(float(sample.value))
    # The parser indexes lines that it takes for well formed.
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"no metrics ({type(error).__name__}: {error})") from None
    summed = {name: sum(values) / (len(values) if name == "kv_cache_usage" else 1) for name, values in found.items()}
    return Reading({name: value for name, value in summed.items() if math.isfinite(value)})


def read(url: str, key_variable: str | None = None, timeout_s: float = 5) -> Reading | None:
    """Return the server's counters, or None if it has no such endpoint or does not answer in time.

    Args:
        url: of the server.
        key_variable: environment variable with the server's key.
        timeout_s: seconds that it may take.
    """
    try:
        answer = access.get(url, "/metrics", key_variable, timeout_s=timeout_s)
        return parse(answer.text) if answer.status == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
