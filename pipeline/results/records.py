"""Measurements of each variant as plain data: the input of every comparison.

The readers of manifests fill these; nothing here depends on files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, InstanceOf

from pipeline.results.base import Frozen, Missing
from pipeline.results.bench import BenchResult, Metric
from pipeline.results.eval import TaskResult
from pipeline.results.metrics import THROUGHPUT, THROUGHPUT_PER_GPU

Family = Literal["baseline", "weights and activations", "weights only", "KV cache", "other"]


class Speed(BenchResult):
    """A finished benchmark, with the repeats of all its blocks, and the machine that it ran on."""

    machine: str

    @property
    def block_count(self) -> int:
        """Number of blocks, each with a start of the server."""
        return len({block for load in self.loads for block in load.blocks}) or 1

    def per_gpu(self, gpus: int) -> Speed:
        """Return it with the throughput of one of so many GPUs, under each load."""
        loads = (load.model_copy(update={"metrics": _per_gpu(load.metrics, gpus)}) for load in self.loads)
        return self.model_copy(update={"metrics": _per_gpu(self.metrics, gpus), "loads": tuple(loads)})

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of all repeats; empty if unknown."""
        return tuple(dict.fromkeys(device for load in self.loads for device in load.devices))


def _per_gpu(metrics: Mapping[str, Metric], gpus: int) -> dict[str, Metric]:
    """Return metrics with the throughput of one GPU behind that of all."""
    found = dict[str, Metric]()
    for name, metric in metrics.items():
        found[name] = metric
        if name == THROUGHPUT.name:
            values = tuple(value / gpus for value in metric.values)
            found[THROUGHPUT_PER_GPU.name] = metric.model_copy(update={"values": values})
    return found


class Size(Frozen):
    """The checkpoint on disk; `baseline_bytes` if a gate has compared it with BF16."""

    bytes: int
    baseline_bytes: int | None = None


class TaskScores(TaskResult):
    """A finished task with its items' (hash, score), or the reason why they are missing.

    `cut` has 1 for each answer that reached the token limit, None if the samples do not say; `chance` is the accuracy
    of guessing, zero for generated text.
    """

    scores: tuple[tuple[str, float], ...] | Missing
    cut: tuple[tuple[str, float], ...] | None = None
    chance: float = 0.0


@dataclass(frozen=True, eq=False)
class Logprobs:
    """Log-probabilities of a text under a checkpoint: one row per token, in the order of the text.

    `token` is the text's token at that position, with its `logprob`; `top_ids` are the likeliest tokens there, the
    same number in each row, with their `top_logprobs`.
    """

    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    token: NDArray[np.int32]
    logprob: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Raise a ValueError if the arrays cannot be compared."""
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


@dataclass(frozen=True, eq=False)
class DivergenceSums:
    """Sums that a divergence from BF16 is computed from: 15 kB instead of the 3 MB of its log-probabilities.

    A row for each sequence, a column for each quarter of it: its `tokens`, and their sums of the divergence `kl`, of
    equal first choices `agrees`, and of the log-probability `lost`. `worst` is the sum over the tokens that diverge
    most; `reference` is the digest of BF16's log-probabilities, and `perplexity` is the variant's own.
    """

    reference: str
    tokens: NDArray[np.float64]
    kl: NDArray[np.float64]
    agrees: NDArray[np.float64]
    lost: NDArray[np.float64]
    worst: float
    perplexity: float
    top_k: int
    top_probability: float

    def __post_init__(self) -> None:
        """Raise a ValueError if the sums are not those of sequences."""
        sums = (self.tokens, self.kl, self.agrees, self.lost)
        if any(each.ndim != 2 or each.shape != self.tokens.shape for each in sums) or not self.tokens.size:
            raise ValueError("no sequences, or sums of unequal number")
        if not all(np.isfinite(each).all() for each in (*sums, self.worst, self.perplexity, self.top_probability)):
            raise ValueError("a sum is not finite")
        if (self.tokens.sum(axis=1) < 1).any():
            raise ValueError("a sequence has no tokens")


class Record(Frozen):
    """All results of one variant."""

    name: str
    label: str
    family: Family
    is_baseline: bool
    # Those that served it.
    gpus: int = 1
    emulated: tuple[str, ...]
    size: Size | Missing
    speed: Speed | Missing
    # The same variant under further protocols, by their names.
    protocols: dict[str, Speed] = Field(default_factory=dict)
    tasks: dict[str, TaskScores] | Missing
    divergence: InstanceOf[Logprobs] | InstanceOf[DivergenceSums] | Missing = Missing(reason="not measured")
    # The baseline is evaluated twice: its distance from itself is the resolution of the comparison.
    divergence_again: InstanceOf[Logprobs] | InstanceOf[DivergenceSums] | Missing = Missing(reason="not measured")
    # The number format, a key of `formats.schemes`; empty for BF16 weights.
    scheme: str = ""
    # Capacity of the KV cache as the server printed it, on a copy of the model.
    kv_cache_tokens: int | None = None
    # Checks of the gate that failed for a checkpoint of others, which was measured all the same.
    faults: tuple[str, ...] = ()

    @property
    def benchmarks(self) -> tuple[Speed, ...]:
        """All benchmarks, each once: that of the tables, then those of further protocols."""
        own = (self.speed,) if isinstance(self.speed, Speed) else ()
        return (*own, *(each for name, each in self.protocols.items() if name not in {speed.protocol for speed in own}))

    def per_gpu(self) -> Record:
        """Return it with the throughput of one of its GPUs."""
        speed = self.speed if isinstance(self.speed, Missing) else self.speed.per_gpu(self.gpus)
        protocols = {name: each.per_gpu(self.gpus) for name, each in self.protocols.items()}
        return self.model_copy(update={"speed": speed, "protocols": protocols})
