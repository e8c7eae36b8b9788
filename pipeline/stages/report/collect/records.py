"""From manifests to the plain data for the comparison; unreadable data becomes `n/a` with the reason."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np

from pipeline.artifacts.manifest import Manifest
from pipeline.config import Stage
from pipeline.config.file_names import file_name
from pipeline.hardware.rules import NO_SPEED
from pipeline.json_files import parse_json
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult, Guard, machine_of
from pipeline.results.eval import EvalResult
from pipeline.results.item_scores import ItemScores
from pipeline.results.quantize import QuantizeResult
from pipeline.results.records import DivergenceSums, Logprobs, Record, Size, Speed, TaskScores
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean, first_line
from pipeline.results.verify import VerifyResult
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.blocks import merged
from pipeline.stages.report.collect.labels import task_label

# A file of another content than its name says.
UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
BROKEN_ARRAYS = (EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError, *UNREADABLE)


def records_of(found: Sequence[Source]) -> list[Record]:
    """Return all results of all variants, with the throughput of one GPU where one of them takes several."""
    records = [record_of(source) for source in found]
    return [record.per_gpu() for record in records] if any(record.gpus > 1 for record in records) else records


def record_of(source: Source) -> Record:
    """Return all results of one variant."""
    speeds = [speed_of(blocks) for blocks in source.benchmarks]
    bench, scores = source.finished(Stage.BENCH), source.result(EvalResult)
    return Record(
        name=source.name,
        label=source.label,
        family=source.family,
        is_baseline=source.is_baseline,
        gpus=source.variant.gpus,
        scheme=str(source.quant.get("scheme") or ""),
        emulated=emulated(source),
        kv_cache_tokens=next((each.kv_cache_tokens for each in source.servers() if each.kv_cache_tokens), None),
        faults=_faults(source),
        size=_size(source),
        speed=speeds[0] if bench else Missing(reason=source.missing_reason(Stage.BENCH)),
        protocols={speed.protocol: speed for speed in speeds if isinstance(speed, Speed)},
        tasks=scores if isinstance(scores, Missing) else _tasks(scores, source),
        divergence=_logprobs(source, "file"),
        divergence_again=_logprobs(source, "file_again"),
    )


def speed_of(manifests: Sequence[Manifest]) -> Speed | Missing:
    """Return a benchmark with its machine, from the manifests of its blocks; a guard tells of a block without results.

    Args:
        manifests: at least one of them finished.
    """
    found = {manifest.payload.get("block", 0): _block(manifest) for manifest in manifests}
    results = [result for result in found.values() if isinstance(result, BenchResult)]
    missing = {block: result.reason for block, result in found.items() if isinstance(result, Missing)}
    if not results:
        return Missing(reason=next(iter(missing.values())))
    text = "; ".join(f"block {block + 1} has no results: {reason}" for block, reason in missing.items())
    guards = (Guard(name="blocks", passed=None, text=text),) if missing else ()
    result = merged(results)
    machine = machine_of(next(manifest for manifest in manifests if manifest.status == "ok"))
    return Speed(machine=machine, **dict(result) | {"guards": (*result.guards, *guards)})


def _block(manifest: Manifest) -> BenchResult | Missing:
    if manifest.status == "ok":
        result = read(BenchResult, manifest)
        # Earlier releases benchmarked the emulation.
        is_emulated = isinstance(result, BenchResult) and result.server.emulated
        return Missing(reason=NO_SPEED) if is_emulated else result
    return Missing(reason=first_line(manifest.reason or manifest.status))


def server_of(source: Source) -> ServerFacts:
    """Return the server behind the results: the benchmark's own, else the one that answered the tasks."""
    return next(source.servers(), ServerFacts())


def emulated(source: Source) -> tuple[str, ...]:
    """Return the formats that this machine emulated while serving the variant, as recorded by its servers."""
    return tuple(dict.fromkeys(clean(name, 60) for server in source.servers() for name in server.emulated))


def _faults(source: Source) -> tuple[str, ...]:
    """Return the checks that a checkpoint of others failed, and was measured all the same."""
    checked = source.result(VerifyResult)
    if isinstance(checked, Missing):
        return ()
    return tuple(f"{clean(each.name, 80)}: {clean(each.detail, 400)}" for each in checked.checks if each.ok is False)


def _size(source: Source) -> Size | Missing:
    made, checked = source.result(QuantizeResult), source.result(VerifyResult)
    if not isinstance(checked, Missing):
        return Size(bytes=checked.bytes, baseline_bytes=checked.baseline_bytes)
    return made if isinstance(made, Missing) else Size(bytes=made.bytes)


def _tasks(result: EvalResult, source: Source) -> dict[str, TaskScores]:
    manifest, folder = source.manifests[Stage.EVAL], source.folders[Stage.EVAL]
    return {
        task_label(label, task.task): TaskScores(**dict(task), **samples_of(manifest, folder, label))
        for label, task in result.tasks.items()
    }


def answers_of(records: Sequence[Record]) -> dict[str, dict[str, ItemScores]]:
    """Return the score of each item by variant and task, as a stored report has it."""
    return {
        record.name: {
            label: ItemScores.of(task.scores)
            for label, task in record.tasks.items()
            if not isinstance(task.scores, Missing)
        }
        for record in records
        if not isinstance(record.tasks, Missing)
    }


class Samples(TypedDict):
    """Scores of a task's items, 1 for each answer cut at the token limit, and the score of guessing."""

    scores: tuple[tuple[str, float], ...] | Missing
    cut: NotRequired[tuple[tuple[str, float], ...] | None]
    chance: NotRequired[float]


def samples_of(manifest: Manifest, folder: Path, label: str) -> Samples:
    """Return the score of each item and what else the samples tell; only files of the manifest are opened."""
    name = f"samples/{file_name(label)}.jsonl"
    if name not in manifest.files:
        return {"scores": Missing(reason="no samples were stored")}
    try:
        with (folder / name).open(encoding="utf-8") as lines:
            rows = [parse_json(line) for line in lines if line.strip()]
        scores = tuple((str(row["doc_hash"]), float(row["score"])) for row in rows)
        options = [len(row["options"]) for row in rows if row.get("options")]
        cut = tuple((str(row["doc_hash"]), float(row["unfinished"])) for row in rows if "unfinished" in row)
    except UNREADABLE:
        return {"scores": Missing(reason="the samples cannot be read")}
    if not all(math.isfinite(score) for _, score in scores):
        return {"scores": Missing(reason="a score is not finite")}
    chance = math.fsum(1 / number for number in options) / len(rows) if len(options) == len(rows) and rows else 0.0
    return {"scores": scores, "cut": cut if len(cut) == len(rows) else None, "chance": chance}


def _logprobs(source: Source, which: Literal["file", "file_again"]) -> Logprobs | DivergenceSums | Missing:
    """Return the checkpoint's log-probabilities of the held-out text, or the sums that a stored study keeps of them.

    Only a file that the manifest lists is opened.
    """
    result = source.result(EvalResult)
    if isinstance(result, Missing):
        return result
    if result.divergence is None:
        return Missing(reason="not measured (eval.divergence=null)")
    name = getattr(result.divergence, which)
    if name not in source.manifests[Stage.EVAL].files:
        return Missing(reason="no log-probabilities were stored")
    try:
        return read_divergence(source.folders[Stage.EVAL] / name)
    except BROKEN_ARRAYS:
        return Missing(reason="the log-probabilities cannot be read")


def read_divergence(path: Path) -> Logprobs | DivergenceSums:
    """Return what a file holds of a divergence: log-probabilities, or the sums of them.

    Raises:
        BROKEN_ARRAYS: if it is not such a file.
    """
    with np.load(path, allow_pickle=False) as arrays:
        kind = DivergenceSums if "reference" in arrays else Logprobs
        found = {field.name: arrays[field.name] for field in fields(kind)}
    return kind(**{name: each if each.ndim else each.item() for name, each in found.items()})
