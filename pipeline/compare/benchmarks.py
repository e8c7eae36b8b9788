"""A benchmark against BF16's: each metric under each load, and the guards that failed.

Two benchmarks are compared load by load, by the load's name, and only if they ran on one machine. Generated-token
drift is the guard that needs both: a variant that generates more tokens from the same prompts has more work to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from pydantic import field_serializer

from pipeline.compare import load_guards
from pipeline.compare.speed_models import Group, SpeedModels, group_of
from pipeline.compare.stats.repeats import Change, Repeated, summarize
from pipeline.results.base import Frozen, Missing
from pipeline.results.bench import Goodput, Guard, LoadKind, LoadResult, Memory, Metric
from pipeline.results.records import Record, Speed
from pipeline.results.text import signed_percent

# Tolerated relative difference in generated tokens; beyond it, a difference in speed may be one in reply length.
DRIFT = 0.02


class SpeedCell(Frozen):
    """A metric with its change from the baseline: simultaneous over the variants, by `stats.measurement_model`."""

    measured: Repeated
    change: Change | Missing


class LoadRow(Frozen):
    """One load of a protocol: every metric by vLLM's name.

    `in_flight` is the mean number of requests in flight, over repeats.
    """

    name: str
    request_rate: float | str
    max_concurrency: int | None
    kind: LoadKind
    in_flight: float | None
    cells: dict[str, SpeedCell | Missing]


class Benchmark(Frozen):
    """A variant under one protocol.

    Attributes:
        protocol: its name.
        headline: the load that the tables show.
        loads: all of them, in the order in which they ran; probes of the search for goodput are among them.
        guards: those of all loads, with the drift of generated tokens against the baseline.
        goodput: the highest rate that meets the SLO, if one was requested.
        memory: the server's memory.
        memory_bandwidth: memory read bandwidth of the machine, bytes per second.
        left_out: loads skipped for lack of time.
    """

    protocol: str
    headline: str | None
    loads: tuple[LoadRow, ...]
    guards: tuple[Guard, ...]
    goodput: Goodput | None
    memory: Memory | None
    memory_bandwidth: float | None
    left_out: tuple[str, ...]

    def failed(self, load: str | None) -> tuple[str, ...]:
        """Return the failed guards of a load and of the whole benchmark, as sentences."""
        return _failed(self.guards, load)

    @field_serializer("goodput")
    def _as_shown(self, goodput: Goodput | None) -> dict[str, object] | None:
        """Return the search without the data that `loads` has for its probes too."""
        hidden = {"probes": {"__all__": {"load", "percentile"}}}
        return None if goodput is None else goodput.model_dump(exclude=hidden)


def benchmark(speed: Speed, record: Record, baseline: Record | None, models: SpeedModels) -> Benchmark:
    """Compare one protocol of a variant with the same protocol of the baseline."""
    reference = _reference(speed, record, baseline)
    return Benchmark(
        protocol=speed.protocol,
        headline=speed.headline,
        loads=tuple(_load(load, record.name, speed, reference, models) for load in speed.loads),
        guards=guards(speed, reference),
        goodput=speed.goodput,
        memory=speed.memory,
        memory_bandwidth=speed.memory_bandwidth,
        left_out=speed.left_out,
    )


def marks(record: Record, baseline: Record | None) -> tuple[str, ...]:
    """Return the failed guards of the figures that the tables show, as sentences."""
    if isinstance(record.speed, Missing):
        return ()
    return _failed(guards(record.speed, _reference(record.speed, record, baseline)), record.speed.headline)


def _failed(guards: Sequence[Guard], load: str | None) -> tuple[str, ...]:
    return tuple(f"{each.name}: {each.text}" for each in guards if each.passed is False and each.load in (None, load))


def guards(speed: Speed, reference: Speed | Missing) -> tuple[Guard, ...]:
    """Return a benchmark's guards, and those of each load against the reference: generated tokens and GPU clock."""
    if isinstance(reference, Missing):
        return speed.guards
    found = [check(load, reference.load(load.name)) for load in speed.loads for check in (_drift, load_guards.clocks)]
    return (*speed.guards, *(guard for guard in found if guard is not None))


def headline_cell(
    record: Record, baseline: Record | None, name: str, unit: str, models: SpeedModels
) -> SpeedCell | Missing:
    """Return a metric of the load that the tables show."""
    if isinstance(record.speed, Missing):
        return record.speed
    metric = record.speed.metrics.get(name)
    if metric is None:
        return Missing(reason=f"the benchmark has no {name}")
    if metric.unit != unit:
        return Missing(reason=f"measured in {metric.unit}, not {unit}")
    reference = _reference(record.speed, record, baseline)
    other: Metric | Missing = Missing(reason=f"BF16 has no {name} to compare with")
    if isinstance(reference, Missing):
        other = reference
    elif reference.headline != record.speed.headline:
        other = Missing(reason=f"BF16's figures are of another load ({reference.headline})")
    else:
        load, same = record.speed.load(record.speed.headline), reference.load(reference.headline)
        reason = load.incomparable(name, same) if load and same else ""
        other = Missing(reason=reason) if reason else reference.metrics.get(name, other)
    where = _Place(models, group_of(record.speed, record.speed.headline), record.name, name)
    return _cell(metric, other, where)


def _reference(speed: Speed, record: Record, baseline: Record | None) -> Speed | Missing:
    """Return the baseline's benchmark to compare with, or the reason why there is none."""
    if record.is_baseline:
        return Missing(reason="the baseline itself")
    if baseline is None:
        return Missing(reason="no BF16 baseline among the results")
    if isinstance(baseline.speed, Missing):
        return Missing(reason=f"BF16 has no benchmark: {baseline.speed.reason}")
    reference = baseline.speed
    if reference.protocol != speed.protocol:
        if speed.protocol not in baseline.protocols:
            return Missing(reason=f"BF16 was not measured under {speed.protocol}")
        reference = baseline.protocols[speed.protocol]
    if reference.machine != speed.machine:
        return Missing(reason=f"BF16 was measured on another machine ({reference.machine})")
    return reference


class _Place(NamedTuple):
    """A metric of a variant, in the model of its group."""

    models: SpeedModels
    group: Group
    variant: str
    metric: str


def _load(load: LoadResult, variant: str, speed: Speed, reference: Speed | Missing, models: SpeedModels) -> LoadRow:
    cells: dict[str, SpeedCell | Missing] = {}
    other = reference if isinstance(reference, Missing) else reference.load(load.name)
    for name, metric in load.metrics.items():
        figures: Metric | Missing = Missing(reason=f"BF16 was not measured under {load.name}")
        if isinstance(other, Missing):
            figures = other
        elif other is not None:
            reason = load.incomparable(name, other)
            figures = Missing(reason=reason or f"BF16 has no {name}")
            figures = figures if reason else other.metrics.get(name, figures)
        cells[name] = _cell(metric, figures, _Place(models, group_of(speed, load.name), variant, name))
    return LoadRow(
        name=load.name,
        request_rate=load.request_rate,
        max_concurrency=load.max_concurrency,
        kind=load.kind,
        in_flight=fmean(load.in_flight) if load.in_flight else None,
        cells=cells | {name: Missing(reason=reason) for name, reason in load.withheld.items()},
    )


def _cell(metric: Metric, reference: Metric | Missing, place: _Place) -> SpeedCell | Missing:
    model = place.models.model(place.group, place.metric)
    measured = summarize(metric.unit, metric.values, metric.errors, model.mean_noise(place.variant))
    if isinstance(measured, Missing):
        return measured
    if isinstance(reference, Missing):
        return SpeedCell(measured=measured, change=reference)
    if reference.unit != metric.unit or isinstance(summarize(reference.unit, reference.values), Missing):
        return SpeedCell(measured=measured, change=Missing(reason="BF16 has no such figure to compare with"))
    change = place.models.against_baseline(place.group, place.metric, place.variant)
    return SpeedCell(measured=measured, change=change)


def _drift(load: LoadResult, reference: LoadResult | None) -> Guard | None:
    """Return the guard on generated tokens against the baseline; None if no repeat of both had the same prompts."""
    if reference is None or load.num_prompts != reference.num_prompts:
        return None
    ours, theirs = _by_seed(load), _by_seed(reference)
    same = ours.keys() & theirs.keys()
    if not same or not sum(theirs[seed] for seed in same):
        return None
    drift = sum(ours[seed] for seed in same) / sum(theirs[seed] for seed in same) - 1
    text = f"{signed_percent(drift)} generated tokens against BF16, from the same prompts"
    return Guard(name="generated tokens", passed=abs(drift) <= DRIFT, text=text, load=load.name)


def _by_seed(load: LoadResult) -> dict[int, int]:
    """Return the generated tokens of each repeat by its seed; by its place where seeds were not recorded."""
    seeds = load.seeds if len(load.seeds) == len(load.output_tokens) else range(len(load.output_tokens))
    return dict(zip(seeds, load.output_tokens, strict=True))
