"""What was measured of each variant, as plain data: the input of every comparison.

Whoever reads manifests fills these; nothing here knows where they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import InstanceOf

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


@dataclass(frozen=True, eq=False)
class Logprobs:
    """What a checkpoint thinks of a text: a row a token, in the order of the text.

    `token` is the text's own at that place, with its `logprob`; `top_ids` are the likeliest ones there, as many in
    each row, with their `top_logprobs`.
    """

    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    token: NDArray[np.int32]
    logprob: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuses with a ValueError what cannot be compared."""
        rows = len(self.token)
        columns: tuple[NDArray[Any], ...] = (self.sequence, self.position, self.token, self.logprob)
        if not rows or any(column.shape != (rows,) for column in columns):
            raise ValueError("no tokens, or columns of unequal length")
        if self.top_ids.shape != self.top_logprobs.shape or self.top_ids.shape[:1] != (rows,) or not self.top_ids.size:
            raise ValueError("the likeliest tokens are not a row for each token")
        if not (np.isfinite(self.logprob).all() and np.isfinite(self.top_logprobs).all()):
            raise ValueError("a log-probability is not finite")
        step = np.diff(self.sequence.astype(np.int64))
        if not ((step > 0) | ((step == 0) & (np.diff(self.position.astype(np.int64)) > 0))).all():
            raise ValueError("the tokens are not in the order of the text")


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
    divergence: InstanceOf[Logprobs] | Missing = Missing(reason="not measured")
    # The baseline is asked twice: what it differs from itself by is the resolution of the comparison.
    divergence_again: InstanceOf[Logprobs] | Missing = Missing(reason="not measured")
