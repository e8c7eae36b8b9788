"""Setup of the measurements, as the results record it; the settings of the report's own command say nothing of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.compare.comparison import Comparison
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Missing, R
from pipeline.results.bench import BenchResult
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.records import Record, Speed, TaskScores
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.records import server_of
from pipeline.stages.report.number_format import plain

NOTHING = "nothing was measured"


def setup_of(found: Sequence[Source], records: Sequence[Record], comparison: Comparison) -> dict[str, str]:
    """Return server, loads, repeats, blocks, devices, tasks and text of the results, each in words."""
    versions = dict.fromkeys(
        f"{name} {version}"
        for source in found
        for name, version in server_of(source).versions.items()
        if name.startswith("vllm")
    )
    speeds = [record.speed for record in records if isinstance(record.speed, Speed)]
    return {
        "Server": clean(", ".join(versions)) or "not recorded",
        "Load": "; ".join(dict.fromkeys(map(_load, speeds))) or NOTHING,
        **_repeats(speeds),
        **_blocks(records),
        **_gpus(records),
        **_devices(records),
        **_decoding(found),
        **_weights(found),
        "Scoring": _scoring(records),
        "KL from BF16": _text(comparison),
    }


def _load(speed: Speed) -> str:
    load = speed.load(speed.headline)
    if load is None:
        return f"{clean(speed.protocol) or 'a benchmark'} of an early release"
    flight = "no limit" if load.max_concurrency is None else f"{load.max_concurrency}"
    text = (
        f"{load.num_prompts:,} prompts a repeat, request rate {plain(load.request_rate)}, requests in flight: {flight}"
    )
    return text if len(speed.loads) == 1 else f"{text} (the load of the tables, of {len(speed.loads)})"


def _repeats(speeds: Sequence[Speed]) -> dict[str, str]:
    """Return the number of repeats and of warm-up rounds of all variants."""
    if not speeds:
        return {}
    counts = {len(metric.values) for speed in speeds for metric in speed.metrics.values()}
    rounds = {len(speed.warm_up) for speed in speeds}
    return {"Repeats": f"{_span(counts)} of each variant, after {_span(rounds)} of warm-up"}


def _span(numbers: Iterable[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def _blocks(records: Sequence[Record]) -> dict[str, str]:
    """Return the number of blocks if there are several, and the variants that have fewer."""
    counts = {record.label: record.speed.block_count for record in records if isinstance(record.speed, Speed)}
    most = max(counts.values(), default=1)
    if most == 1:
        return {}
    fewer = ", ".join(f"{label} has {count}" for label, count in counts.items() if count < most)
    text = f"{most}, each with a start of every variant's server"
    return {"Blocks": f"{text}; {fewer}" if fewer else text}


def _gpus(records: Sequence[Record]) -> dict[str, str]:
    """Return the variants by their number of GPUs, where one has several."""
    variants: dict[int, list[str]] = {}
    for record in records:
        variants.setdefault(record.gpus, []).append(record.label)
    text = "; ".join(f"{number}: {', '.join(variants[number])}" for number in sorted(variants))
    return {"GPUs": text} if max(variants, default=1) > 1 else {}


def _devices(records: Sequence[Record]) -> dict[str, str]:
    """Return the devices of the benchmarks, where they are known; if there are several, each with its variants."""
    variants: dict[str, list[str]] = {}
    for record in records:
        for device in record.speed.devices if isinstance(record.speed, Speed) else ():
            variants.setdefault(device, []).append(record.label)
    texts = (
        [f"{device}: {', '.join(labels)}" for device, labels in variants.items()] if len(variants) > 1 else [*variants]
    )
    return {"Device": "; ".join(texts)} if texts else {}


def _decoding(found: Sequence[Source]) -> dict[str, str]:
    """Return the sampling of benchmarks and tasks, and what the generation config names and nothing applies."""
    servers = [server for source in found for server in source.servers() if "sampling" in server.model_fields_set]
    benches = [bench for bench in _results(found, BenchResult) if "temperature" in bench.model_fields_set]
    parts = [*dict.fromkeys(map(_sampling, benches))]
    if any("sampling" in scored.server.model_fields_set for scored in _results(found, EvalResult)):
        parts.append("tasks: greedy without penalties, unless a task names parameters of its own")
    named = {text for server in servers for text in _parameters(server.generation_config)}
    if ignored := sorted(named - {text for server in servers for text in _parameters(server.sampling)}):
        parts.append(f"not applied: {', '.join(ignored)} of generation_config.json")
    return {"Decoding": "; ".join(parts)} if parts else {}


def _sampling(bench: BenchResult) -> str:
    """Describe how a benchmark's requests are sampled: by what they name, and by what the server gives them."""
    chosen = bench.temperature
    asked = "greedy" if chosen == 0 else "no temperature named" if chosen is None else f"temperature {chosen:g}"
    if bench.server.attached:
        return f"benchmarks: {asked}, all else by the attached server"
    given = [(name, n) for name, n in bench.server.sampling.items() if chosen is None or name != "temperature"]
    rest = f"{', '.join(_parameters(dict(given)))} by the server" if given else "without penalties"
    return f"benchmarks: {asked}, {rest}"


def _parameters(sampling: Mapping[str, float]) -> list[str]:
    return [f"{clean(name, 40)}={value:g}" for name, value in sampling.items()]


def _weights(found: Sequence[Source]) -> dict[str, str]:
    """Return the type that the model's weights came in, if they were cast to BF16."""
    types = sorted({clean(made.cast_from, 40) for made in _results(found, QuantizeResult) if made.cast_from})
    if not types:
        return {}
    return {"Weights": f"cast from {' or '.join(types)} to BF16 once, for every variant and the BF16 baseline itself"}


def _results(found: Sequence[Source], cls: type[R]) -> list[R]:
    """Return the results of a stage, of the variants that have them."""
    return [each for each in (source.result(cls) for source in found) if not isinstance(each, Missing)]


def _scoring(records: Sequence[Record]) -> str:
    scored: dict[str, list[TaskScores]] = {}
    for record in records:
        for label, task in {} if isinstance(record.tasks, Missing) else record.tasks.items():
            scored.setdefault(label, []).append(task)
    return "; ".join(_task(label, tasks) for label, tasks in scored.items()) or "nothing was scored"


def _task(label: str, tasks: Sequence[TaskScores]) -> str:
    names = " or ".join(dict.fromkeys(f"{clean(task.task)} ({clean(task.metric)})" for task in tasks))
    sizes = {task.available for task in tasks if task.available}
    of = f" of {max(sizes):,}" if sizes and max(sizes) > max(task.asked for task in tasks) else ""
    return f"{label}: {names}, {_span({task.asked for task in tasks})}{of} items"


def _text(comparison: Comparison) -> str:
    """Describe the text that the divergence was measured on."""
    cells = [row.divergence for row in comparison.rows if isinstance(row.divergence, DivergenceCell)]
    if not cells:
        return "not measured"
    cell = max(cells, key=lambda each: each.tokens)
    return (
        f"{cell.sequences} conversations of {cell.tokens:,} tokens in all; the {cell.top_k} likeliest tokens at each "
        "position"
    )
