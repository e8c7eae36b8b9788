"""The stored benchmarks of `docs/results/`, compared by the code that compares those of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scipy.special import ndtri, stdtrit

from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.compare import compare
from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.statements import signed
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult, LoadResult, Metric, machine_of
from pipeline.results.metrics import METRICS
from pipeline.results.records import Record, Speed
from pipeline.stages.report.collect.blocks import merged

FOLDER = Path(__file__).parents[1] / "docs" / "results"
# The hosts of H200s by the names of the text.
HOST_A, HOST_B, H100 = "qwen3_8b_h200_2", "qwen3_8b_h200", "qwen3_8b_h100"
HOSTS = {HOST_A: "A", HOST_B: "B"}
STUDY, STREAM, LADDER = "study", "study_stream_interval_8", "ladder"
# An H200 whose servers recorded CUDA graphs for batches of up to 1024, and one with vLLM's 512.
GRAPHS, SMALL_GRAPHS = "h200_qwen3_8b_graphs", "study_graphs_to_512"
# One GPU each of one host, two blocks with CUDA graphs to 1024.
FLOATS, INTEGERS = "h200_qwen3_8b_fp8", "h200_qwen3_8b_integers"
# BF16 and FP8 static in two blocks, with every core of the host.
ALL_CORES = "h200_qwen3_8b_all_cores"
# Five formats in two blocks, each block on a GPU of its own, and BF16 on both GPUs together.
DEMO = "demo_cpu"
TWO_GPUS = "h200_qwen3_8b_two_gpus"
MORE_FORMATS = "h200_qwen3_8b_more_formats"
# The control of MORE_FORMATS: the same, with another attention kernel.
TRITON = "h200_qwen3_8b_triton"
LABELS = {
    "bf16": "BF16",
    "fp8_static": "FP8 static",
    "fp8_dynamic": "FP8 dynamic",
    "int8_dynamic": "INT8 dynamic",
    "awq": "AWQ",
    "w4a16": "W4A16",
    "gptq": "GPTQ",
    "bnb_nf4": "bitsandbytes NF4",
    "bf16+fp8_e4m3": "BF16 + FP8 KV cache",
    "bf16@tp2": "BF16 on both GPUs",
}


# Marks of figures whose guards failed, or were not recorded.
FAILED, UNRECORDED = " †", " ‡"


class Pooled(NamedTuple):
    """A change of several hosts together, in percent."""

    percent: float
    interval: Interval


@cache
def speed(host: str, variant: str, protocol: str) -> Speed | None:
    """Return a stored benchmark; without a manifest (an unfinished one) its loads alone; None if there is none."""
    folder = FOLDER / host / variant / protocol
    if blocks := blocks_of(folder):
        return Speed(machine=machine_of(blocks[0]), **dict(merged(results_of(blocks))))
    loads = tuple(_load(each) for each in sorted(folder.glob("*")) if each.is_dir())
    if not loads:
        return None
    if (baseline := None if variant == "bf16" else speed(host, "bf16", protocol)) is not None:
        loads = tuple(_with_seeds(load, baseline.load(load.name)) for load in loads)
    shown = loads[-1]
    return Speed(
        machine="NVIDIA H100 80GB HBM3" if host == H100 else "NVIDIA H200",
        protocol=protocol,
        headline=shown.name,
        loads=loads,
        asked=shown.asked,
        completed=shown.completed,
        output_tokens=shown.output_tokens,
        metrics=shown.metrics,
    )


def blocks_of(folder: Path) -> list[Manifest]:
    """Return the manifests of a benchmark's blocks; none if it was not finished."""
    if (first := read_manifest(folder)) is None:
        return []
    return [first, *filter(None, map(read_manifest, sorted(folder.parent.glob(f"{folder.name}_block_*"))))]


def results_of(blocks: Sequence[Manifest]) -> list[BenchResult]:
    """Return what each block measured."""
    found = [read(BenchResult, each) for each in blocks]
    results = [each for each in found if not isinstance(each, Missing)]
    assert len(results) == len(found), "a stored benchmark cannot be read"
    return results


def _load(folder: Path) -> LoadResult:
    """Return a load from what vLLM's client wrote for each repeat."""
    repeats = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("repeat-*.json"))]
    named = {
        name: each.unit for name, each in METRICS.items() if all(repeat.get(name) is not None for repeat in repeats)
    }
    first = repeats[0]
    return LoadResult(
        name=folder.name.replace("-", " "),
        num_prompts=first["num_prompts"],
        request_rate=first["request_rate"],
        max_concurrency=first["max_concurrency"],
        asked=sum(each["num_prompts"] for each in repeats),
        completed=sum(each["completed"] for each in repeats),
        failed=sum(each["failed"] for each in repeats),
        input_tokens=tuple(each["total_input_tokens"] for each in repeats),
        output_tokens=tuple(each["total_output_tokens"] for each in repeats),
        metrics={name: Metric(unit=unit, values=tuple(each[name] for each in repeats)) for name, unit in named.items()},
    )


def _with_seeds(load: LoadResult, baseline: LoadResult | None) -> LoadResult:
    """Return a load with BF16's seeds if its prompts have as many tokens in each repeat: vLLM's files name no seed."""
    same = baseline is not None and baseline.input_tokens == load.input_tokens
    return load.model_copy(update={"seeds": baseline.seeds}) if baseline is not None and same else load


@cache
def compared(host: str, protocol: str) -> Comparison:
    """Return the variants of one host under one protocol, compared as in its report."""
    found = {variant: speed(host, variant, protocol) for variant in LABELS}
    records = [
        Record(
            name=variant,
            label=LABELS[variant],
            family="baseline" if variant == "bf16" else "other",
            is_baseline=variant == "bf16",
            emulated=(),
            size=Missing(reason="not shown"),
            speed=each,
            protocols={each.protocol: each},
            tasks=Missing(reason="not scored"),
        )
        for variant, each in found.items()
        if each is not None
    ]
    return compare(records, [])


def row(host: str, variant: str, protocol: str = STUDY) -> Row:
    """Return a variant of the comparison."""
    return next(each for each in compared(host, protocol).rows if each.name == variant)


def cell(host: str, variant: str, metric: str, protocol: str = STUDY, load: str | None = None) -> SpeedCell | None:
    """Return a metric of the load that the tables show, or of a named one; None if it was not measured."""
    try:
        found = row(host, variant, protocol)
    except StopIteration:
        return None
    if load is None:
        shown = found.speed.get(metric)
        return shown if isinstance(shown, SpeedCell) else None
    for benchmark in found.benchmarks.values():
        for each in benchmark.loads:
            if each.name == load and isinstance(value := each.cells.get(metric), SpeedCell):
                return value
    return None


def values(host: str, variant: str, metric: str, protocol: str = STUDY) -> tuple[float, ...]:
    """Return a metric of each repeat."""
    found = speed(host, variant, protocol)
    assert found is not None
    return found.metrics[metric].values


def change(host: str, variant: str, metric: str, protocol: str = STUDY, load: str | None = None) -> Change:
    """Return the change of a metric against BF16's."""
    found = cell(host, variant, metric, protocol, load)
    assert found is not None and isinstance(found.change, Change)
    return found.change


def pooled(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Pooled:
    """Return the change over several hosts, each with its repeats and those of its baseline.

    Log ratios of means are weighted by the inverse of their variances (W. Cochran, Biometrics 10, 1954), with the
    normal quantile. It is the mean of these hosts: how much hosts differ is not in the interval, and two hosts do not
    tell it.
    """
    ratios, weights = [], []
    for ours, theirs in pairs:
        ratios.append(math.log(_mean(ours) / _mean(theirs)))
        weights.append(1 / sum(_variance(each) / (len(each) * _mean(each) ** 2) for each in (ours, theirs)))
    total = math.fsum(weights)
    centre = math.fsum(weight * ratio for weight, ratio in zip(weights, ratios, strict=True)) / total
    half = float(ndtri((1 + LEVEL) / 2)) / math.sqrt(total)
    around = Interval(low=100 * math.expm1(centre - half), high=100 * math.expm1(centre + half))
    return Pooled(100 * math.expm1(centre), around)


def both_hosts(variant: str, metric: str) -> Pooled:
    """Return the change under the study's protocol of both hosts of H200s together."""
    return pooled([(values(host, variant, metric), values(host, "bf16", metric)) for host in (HOST_A, HOST_B)])


def by_start(host: str, variant: str, metric: str, protocol: str = STUDY) -> list[tuple[float, ...]]:
    """Return a metric's repeats of each start of the server."""
    return [each.metrics[metric].values for each in results_of(blocks_of(FOLDER / host / variant / protocol))]


def start_changes(host: str, variant: str, metric: str) -> list[float]:
    """Return the log ratio of means to BF16's for each start of both servers."""
    pairs = zip(by_start(host, variant, metric), by_start(host, "bf16", metric), strict=True)
    return [math.log(_mean(ours) / _mean(theirs)) for ours, theirs in pairs]


def over_starts(hosts: Sequence[str], variant: str, metric: str) -> Pooled:
    """Return the change over all starts of several hosts, each start one value: Student's t of their log ratios."""
    ratios = [ratio for host in hosts for ratio in start_changes(host, variant, metric)]
    half = float(stdtrit(len(ratios) - 1, (1 + LEVEL) / 2)) * math.sqrt(_variance(ratios) / len(ratios))
    low, centre, high = (100 * math.expm1(_mean(ratios) + offset) for offset in (-half, 0.0, half))
    return Pooled(centre, Interval(low=low, high=high))


def failed_guards(host: str, variant: str, protocol: str, load: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the failed guards of a load, or of the one in the tables; None if none were recorded."""
    found = speed(host, variant, protocol)
    if found is None or not found.guards:
        return None
    names = (g.name for g in found.guards if g.passed is False and g.load in (None, load or found.headline))
    return tuple(dict.fromkeys(names))


def _mean(repeats: Sequence[float]) -> float:
    return math.fsum(repeats) / len(repeats)


def _variance(repeats: Sequence[float]) -> float:
    return math.fsum((value - _mean(repeats)) ** 2 for value in repeats) / (len(repeats) - 1)


def percent(found: Change | Pooled) -> str:
    """Format a change with its interval; one without is of a single repeat."""
    if found.interval is None:
        return f"{signed(found.percent)} % (one repeat)"
    return f"{signed(found.percent)} % ({span(found.interval)})"


def span(around: Interval) -> str:
    """Format an interval."""
    return f"{signed(around.low)} to {signed(around.high)}"


def against_bf16(host: str, variant: str, metric: str, protocol: str = STUDY, load: str | None = None) -> str:
    """Format a change against BF16 with its mark."""
    if cell(host, variant, metric, protocol, load) is None:
        return "not measured"
    return percent(change(host, variant, metric, protocol, load)) + mark(host, (variant, "bf16"), protocol, load)


def mark(host: str, variants: Sequence[str], protocol: str, load: str | None = None) -> str:
    """Return the mark of figures for which a guard failed, or none was recorded."""
    guards = [failed_guards(host, each, protocol, load) for each in variants]
    return FAILED if any(guards) else UNRECORDED if None in guards else ""


def between(values: Sequence[float], digits: int) -> str:
    """Format the least and the largest value."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"
