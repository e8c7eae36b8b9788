"""The measured throughput that a ladder's loads derive from: that of BF16 for every variant, if it is among them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline.config import Stage
from pipeline.errors import StageError
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult, LoadResult
from pipeline.results.metrics import P99_E2EL, REQUEST_THROUGHPUT, latency

if TYPE_CHECKING:
    from pipeline.job import Job


def saturation(loads: Sequence[LoadResult]) -> float:
    """Return the highest request throughput of any load, a mean over its repeats, in requests per second.

    An open load's throughput is the offered rate; so it is asked only where there is no other.
    """
    closed = [load for load in loads if load.kind != "open"] or loads
    return max(_mean(load, REQUEST_THROUGHPUT.name) for load in closed)


def answer_s(loads: Sequence[LoadResult], rate: float) -> float:
    """Return a long end-to-end latency at a rate, in seconds: P99 at the smallest closed level that reaches it.

    Where a level had too few requests for a P99, three times the mean.
    """
    closed = [load for load in loads if load.kind == "closed"]
    fast = [load for load in closed if _mean(load, REQUEST_THROUGHPUT.name) >= rate]
    level = fast[0] if fast else max(closed, key=lambda load: _mean(load, REQUEST_THROUGHPUT.name))
    name = P99_E2EL.name
    longest = _mean(level, name) if name in level.metrics else 3 * _mean(level, latency("mean", "e2el").name)
    return longest / 1000


def _mean(load: LoadResult, name: str) -> float:
    return fmean(load.metrics[name].values)


def reference_of(job: Job) -> BenchResult | None:
    """Return the benchmark that the loads derive from; None if they derive from the variant's own throughput.

    Raises:
        StageError: if it is not finished.
    """
    if job.reference is None or job.settings.bench.ladder is None:
        return None
    manifest = job.reference.artifact(Stage.BENCH).manifest()
    result = read(BenchResult, manifest) if manifest is not None and manifest.status == "ok" else None
    if result is None or isinstance(result, Missing):
        raise StageError(
            f"The ladder of {job.variant} needs the benchmark of {job.reference.variant}, which has not finished: its "
            "throughput fixes the rates and the number of requests.",
            f"Repair {job.reference.variant}, or run without it: the rates are then those of the variant itself.",
        )
    return result
