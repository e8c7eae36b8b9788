"""What was measured of each variant, as plain data: the input of every comparison.

Whoever reads manifests fills these; nothing here knows where they came from.
"""

from __future__ import annotations

from typing import Literal

from pipeline.compare.estimates import Frozen, Missing

Family = Literal["baseline", "weights and activations", "weights only", "KV cache", "other"]


class Metric(Frozen):
    """One figure of a benchmark, once per repeat."""

    unit: str
    values: tuple[float, ...]


class Speed(Frozen):
    """A finished benchmark."""

    machine: str
    metrics: dict[str, Metric]
    asked: int
    completed: int
    failed: int
    kv_cache_tokens: int | None = None
    ready_s: float | None = None


class Size(Frozen):
    """The checkpoint on disk; `baseline_bytes` where a gate has weighed it against BF16 already."""

    bytes: int
    baseline_bytes: int | None = None


class TaskScores(Frozen):
    """A finished task; `scores` are the items' (hash, score), or why they are not at hand."""

    task: str
    metric: str
    value: float
    n: int
    asked: int
    scores: tuple[tuple[str, float], ...] | Missing


class Record(Frozen):
    """All that is known of one variant."""

    name: str
    label: str
    family: Family
    is_baseline: bool
    emulated: tuple[str, ...]
    size: Size | Missing
    speed: Speed | Missing
    tasks: dict[str, TaskScores] | Missing
