"""The blocks of a benchmark merged into one: each load with the repeats of all blocks, each repeat with its block.

A block starts the server of every variant once. The repeats of one block share that start and what it drew by chance
(memory layout, clocks, the machine's state); those of two blocks do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pipeline.results.bench import BenchResult, Goodput, Guard, LoadResult, Memory, Metric

T = TypeVar("T")


def merged(blocks: Sequence[BenchResult]) -> BenchResult:
    """Return the results of one variant's blocks, at least one, as a single benchmark."""
    blocks = sorted(blocks, key=lambda result: result.block)
    first = blocks[0]
    loads = [
        _load([(result, load) for result in blocks if (load := result.load(name)) is not None])
        for name in dict.fromkeys(load.name for result in blocks for load in result.loads)
    ]
    if len(blocks) == 1:
        return first.model_copy(update={"loads": tuple(loads)})
    # A ladder's budget may end it lower in one block than in another.
    shared = (result.headline for result in blocks if all(other.load(result.headline) for other in blocks))
    headline = next(shared, first.headline)
    shown = next((load for load in loads if load.name == headline), first)
    return first.model_copy(
        update={
            "device": first.device if len({result.device for result in blocks}) == 1 else "",
            "headline": headline,
            **{name: getattr(shown, name) for name in ("asked", "completed", "failed", "output_tokens", "metrics")},
            "loads": tuple(loads),
            "left_out": tuple(dict.fromkeys(name for result in blocks for name in result.left_out)),
            "guards": tuple(_named(guard, result.block) for result in blocks for guard in result.guards),
            "warm_up": _chain(result.warm_up for result in blocks),
            "goodput": _goodput([result.goodput for result in blocks if result.goodput is not None]),
            "memory": _memory([result.memory for result in blocks if result.memory is not None]),
            "failures": _chain(result.failures for result in blocks),
            "memory_bandwidth": next((result.memory_bandwidth for result in blocks if result.memory_bandwidth), None),
        }
    )


def _load(parts: Sequence[tuple[BenchResult, LoadResult]]) -> LoadResult:
    """Return a load with the repeats of all blocks; `devices` stays empty if a block's is unknown."""
    loads = [load for _, load in parts]
    repeats = [_repeats(load) for load in loads]
    blocks = [result.block for result, _ in parts]
    devices = [result.device for result, _ in parts]
    return loads[0].model_copy(
        update={
            "blocks": _chain((block,) * number for block, number in zip(blocks, repeats, strict=True))
            if any(blocks)
            else (),
            "devices": _chain((device,) * number for device, number in zip(devices, repeats, strict=True))
            if all(devices)
            else (),
            **{name: sum(getattr(load, name) for load in loads) for name in ("asked", "completed", "failed")},
            **{
                name: _joined([getattr(load, name) for load in loads])
                for name in ("seeds", "input_tokens", "output_tokens", "conditions", "analysed", "in_flight")
            },
            "metrics": {
                name: _metric([load.metrics[name] for load in loads])
                for name, metric in loads[0].metrics.items()
                if all(name in load.metrics and load.metrics[name].unit == metric.unit for load in loads)
            },
        }
    )


def _repeats(load: LoadResult) -> int:
    return max((len(metric.values) for metric in load.metrics.values()), default=len(load.seeds))


def _metric(parts: Sequence[Metric]) -> Metric:
    """Return a metric with the values of all blocks; an unknown error is None."""
    errors: Iterable[tuple[float | None, ...]] = (part.errors or (None,) * len(part.values) for part in parts)
    return parts[0].model_copy(
        update={
            "values": _chain(part.values for part in parts),
            "errors": _chain(errors) if any(part.errors for part in parts) else (),
        }
    )


def _named(guard: Guard, block: int) -> Guard:
    return Guard(name=guard.name, passed=guard.passed, text=f"block {block + 1}: {guard.text}", load=guard.load)


def _goodput(found: Sequence[Goodput]) -> Goodput | None:
    """Return the bracket that holds those of all blocks, with the rates tried in each."""
    if not found:
        return None
    met, unmet = [each.met for each in found], [each.unmet for each in found]
    return found[0].model_copy(
        update={
            "met": None if None in met else min(rate for rate in met if rate is not None),
            "unmet": None if None in unmet else max(rate for rate in unmet if rate is not None),
            "probes": _chain(each.probes for each in found),
            **{name: _all(found, name) for name in ("met_confirmed", "unmet_confirmed", "monotone")},
        }
    )


def _all(found: Sequence[Goodput], name: str) -> bool | None:
    """Return whether a statement on the search holds in all blocks; None if one does not have it."""
    held = [getattr(each, name) for each in found]
    return None if None in held else all(held)


def _memory(found: Sequence[Memory]) -> Memory | None:
    """Return the memory of the first block, with the peak of all."""
    if not found:
        return None
    peaks = [each.peak_bytes for each in found if each.peak_bytes is not None]
    return found[0].model_copy(update={"peak_bytes": max(peaks, default=None)})


def _joined(parts: Sequence[tuple[T, ...]]) -> tuple[T, ...]:
    """Return the values of all blocks, one a repeat; empty if a block has none."""
    return _chain(parts) if all(parts) else ()


def _chain(parts: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
    return tuple(value for part in parts for value in part)
