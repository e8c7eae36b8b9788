"""Read a benchmark's manifest: its loads, guards, goodput and memory (schema: `pipeline.stages.bench`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.artifacts.manifest import Manifest
from pipeline.results.base import Missing
from pipeline.results.records import Goodput, Guard, LoadResult, Memory, Metric, Probe, Speed
from pipeline.results.text import clean

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def machine_of(manifest: Manifest) -> str:
    """The machine of a result, in a few words."""
    hardware = manifest.hardware
    name = clean(hardware.get("name", "an unknown machine"), 80)
    return f"{name}, {hardware['cores']} cores" if hardware.get("device") == "cpu" and "cores" in hardware else name


def speed_of(manifest: Manifest) -> Speed | Missing:
    """What a finished benchmark measured."""
    results = manifest.results
    try:
        server, headline = results.get("server") or {}, results.get("headline")
        tokens, ready, read = server.get("kv_cache_tokens"), server.get("ready_s"), results.get("memory_bandwidth")
        return Speed(
            machine=machine_of(manifest),
            metrics=_metrics(results["metrics"]),
            asked=int(results["asked"]),
            completed=int(results["completed"]),
            failed=int(results.get("failed", 0)),
            kv_cache_tokens=None if tokens is None else int(tokens),
            ready_s=None if ready is None else float(ready),
            protocol=clean(results.get("protocol", ""), 40),
            headline=None if headline is None else clean(headline, 60),
            loads=tuple(_load(load) for load in results.get("loads", ())),
            guards=tuple(_guard(guard) for guard in results.get("guards", ())),
            goodput=_goodput(results.get("goodput")),
            memory=_memory(results.get("memory")),
            memory_bandwidth=None if read is None else float(read),
            left_out=tuple(clean(name, 60) for name in results.get("left_out", ())),
        )
    except UNREADABLE:
        return Missing(reason="the benchmark's manifest cannot be read")


def _metrics(found: Mapping[str, Any]) -> dict[str, Metric]:
    return {
        clean(name): Metric(
            unit=clean(item["unit"], 20),
            values=tuple(float(value) for value in item["values"]),
            errors=tuple(None if error is None else float(error) for error in item.get("errors", ())),
        )
        for name, item in found.items()
    }


def _load(load: Mapping[str, Any]) -> LoadResult:
    rate, flight = load["request_rate"], load["max_concurrency"]
    return LoadResult(
        name=clean(load["name"], 60),
        request_rate="inf" if rate == "inf" else float(rate),
        max_concurrency=None if flight is None else int(flight),
        num_prompts=int(load["num_prompts"]),
        metrics=_metrics(load["metrics"]),
        asked=int(load["asked"]),
        completed=int(load["completed"]),
        failed=int(load["failed"]),
        input_tokens=tuple(int(tokens) for tokens in load["input_tokens"]),
        output_tokens=tuple(int(tokens) for tokens in load["output_tokens"]),
    )


def _guard(guard: Mapping[str, Any]) -> Guard:
    load, passed = guard.get("load"), guard["passed"]
    return Guard(
        name=clean(guard["name"], 40),
        passed=None if passed is None else bool(passed),
        text=clean(guard["text"], 300),
        load=None if load is None else clean(load, 60),
    )


def _goodput(found: Mapping[str, Any] | None) -> Goodput | None:
    if found is None:
        return None
    return Goodput(
        slo={clean(name, 20): float(limit) for name, limit in found["slo"].items()},
        met=found["met"],
        unmet=found["unmet"],
        probes=tuple(
            Probe(rate=probe["rate"], met=probe["met"], seen={clean(n, 20): v for n, v in probe["seen"].items()})
            for probe in found["probes"]
        ),
    )


def _memory(found: Mapping[str, Any] | None) -> Memory | None:
    if found is None:
        return None
    return Memory(**{**found, "peak_of": clean(found.get("peak_of", ""), 60)})
