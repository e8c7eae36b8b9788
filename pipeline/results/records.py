"""What was measured of each variant, as plain data: the input of every comparison.

Whoever reads manifests fills these; nothing here knows where they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, InstanceOf

from pipeline.results.base import Frozen, Missing

Family = Literal["baseline", "weights and activations", "weights only", "KV cache", "other"]


class Metric(Frozen):
    """One figure of a benchmark, once per repeat.

    Attributes:
        unit: of the values.
        values: one a repeat.
        errors: of a percentile, its standard error over the requests of each repeat; empty or None where unknown.
    """

    unit: str
    values: tuple[float, ...]
    errors: tuple[float | None, ...] = ()


class LoadResult(Frozen):
    """What was measured under one load of a protocol.

    Attributes:
        name: what tells it from the others, the same for every variant.
        request_rate: requests per second; "inf" sends all at once.
        max_concurrency: requests in flight; None for no limit.
        num_prompts: requests of one repeat.
        metrics: by vLLM's names.
        asked: requests of all repeats; `completed` and `failed` of them.
        input_tokens: of all prompts, a sum for each repeat.
        output_tokens: generated, a sum for each repeat.
    """

    name: str
    request_rate: float | Literal["inf"]
    max_concurrency: int | None
    num_prompts: int
    metrics: dict[str, Metric]
    asked: int
    completed: int
    failed: int
    input_tokens: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()


class Guard(Frozen):
    """Whether a load measured what it says; `passed` is None where that cannot be told, `load` None for the whole."""

    name: str
    passed: bool | None
    text: str
    load: str | None = None


class Probe(Frozen):
    """One rate of the search for the highest good one, with the percentile of each limited metric, milliseconds."""

    rate: float
    met: bool
    seen: dict[str, float | None]


class Goodput(Frozen):
    """The highest rate that met the SLO and the lowest that did not, requests per second; None where none showed."""

    slo: dict[str, float]
    met: float | None
    unmet: float | None
    probes: tuple[Probe, ...]


class Memory(Frozen):
    """What the server held, in bytes; None for what is not known. `peak_of` says what the peak is of."""

    weights_bytes: int | None
    kv_bytes_per_token: int | None
    kv_cache_tokens: int | None
    kv_cache_bytes: int | None
    peak_bytes: int | None
    peak_of: str = ""


class Speed(Frozen):
    """A finished benchmark.

    `metrics`, `asked`, `completed` and `failed` are those of the load named `headline`, which the tables show; `loads`
    are all of them. Results of an earlier release have no loads.
    """

    machine: str
    metrics: dict[str, Metric]
    asked: int
    completed: int
    failed: int
    kv_cache_tokens: int | None = None
    ready_s: float | None = None
    protocol: str = ""
    headline: str | None = None
    loads: tuple[LoadResult, ...] = ()
    guards: tuple[Guard, ...] = ()
    goodput: Goodput | None = None
    memory: Memory | None = None
    # Bytes per second that the machine reads, measured.
    memory_bandwidth: float | None = None
    left_out: tuple[str, ...] = ()

    def load(self, name: str | None) -> LoadResult | None:
        """The load of that name."""
        return next((load for load in self.loads if load.name == name), None)


class Size(Frozen):
    """The checkpoint on disk; `baseline_bytes` where a gate has weighed it against BF16 already."""

    bytes: int
    baseline_bytes: int | None = None


class TaskScores(Frozen):
    """A finished task; `scores` are the items' (hash, score), or why they are not at hand.

    `truncated` prompts exceeded the context, `unfinished` answers their budget; of the greedy answers `asked_again`,
    `differing` came out otherwise; `filters` has the figure under each filter that the task has.
    """

    task: str
    metric: str
    value: float
    n: int
    asked: int
    truncated: int = 0
    unfinished: int = 0
    asked_again: int = 0
    differing: int = 0
    filters: dict[str, float] = Field({})
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
    # The same variant under further protocols, by their names.
    protocols: dict[str, Speed] = Field(default_factory=dict)
    tasks: dict[str, TaskScores] | Missing
    divergence: InstanceOf[Logprobs] | Missing = Missing(reason="not measured")
    # The baseline is asked twice: what it differs from itself by is the resolution of the comparison.
    divergence_again: InstanceOf[Logprobs] | Missing = Missing(reason="not measured")
