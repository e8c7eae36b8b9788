"""From manifests to the plain data for the comparison; unreadable data becomes `n/a` with the reason."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np

from pipeline.artifacts.manifest import Manifest
from pipeline.config import Stage
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult, machine_of
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.records import Logprobs, Record, Size, Speed, TaskScores
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean
from pipeline.results.verify import VerifyResult
from pipeline.stages.report.collect.artifacts import Source

# A file of another content than its name says.
UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError)


def record_of(source: Source) -> Record:
    """Return all results of one variant."""
    speeds = [speed for manifest in source.benchmarks if isinstance(speed := speed_of(manifest), Speed)]
    bench, scores = source.finished(Stage.BENCH), source.result(EvalResult)
    return Record(
        name=source.name,
        label=source.label,
        family=source.family,
        is_baseline=source.is_baseline,
        scheme=str(source.quant.get("scheme") or ""),
        emulated=emulated(source),
        size=_size(source),
        speed=speed_of(bench) if bench else Missing(reason=source.missing_reason(Stage.BENCH)),
        protocols={speed.protocol: speed for speed in speeds},
        tasks=scores if isinstance(scores, Missing) else _tasks(scores, source),
        divergence=_logprobs(source, "file"),
        divergence_again=_logprobs(source, "file_again"),
    )


def speed_of(manifest: Manifest) -> Speed | Missing:
    """Return a finished benchmark with its machine."""
    result = read(BenchResult, manifest)
    return result if isinstance(result, Missing) else Speed(machine=machine_of(manifest), **dict(result))


def server_of(source: Source) -> ServerFacts:
    """Return the server behind the results: the benchmark's own, else the one that answered the tasks."""
    return next(source.servers(), ServerFacts())


def emulated(source: Source) -> tuple[str, ...]:
    """Return the formats that this machine emulated while serving the variant, as recorded by its servers."""
    return tuple(dict.fromkeys(clean(name, 60) for server in source.servers() for name in server.emulated))


def _size(source: Source) -> Size | Missing:
    made, checked = source.result(QuantizeResult), source.result(VerifyResult)
    if not isinstance(checked, Missing):
        return Size(bytes=checked.bytes, baseline_bytes=checked.baseline_bytes)
    return made if isinstance(made, Missing) else Size(bytes=made.bytes)


def _tasks(result: EvalResult, source: Source) -> dict[str, TaskScores]:
    manifest, folder = source.manifests[Stage.EVAL], source.folders[Stage.EVAL]
    return {
        clean(label, 60): TaskScores(**dict(task), **_samples(manifest, folder, label))
        for label, task in result.tasks.items()
    }


class _Samples(TypedDict):
    scores: tuple[tuple[str, float], ...] | Missing
    cut: NotRequired[tuple[tuple[str, float], ...] | None]
    chance: NotRequired[float]


def _samples(manifest: Manifest, folder: Path, label: str) -> _Samples:
    """Return the score of each item and what else the samples tell; only files of the manifest are opened."""
    name = f"samples/{label}.jsonl"
    if name not in manifest.files:
        return {"scores": Missing(reason="no samples were stored")}
    try:
        with (folder / name).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        scores = tuple((str(row["doc_hash"]), float(row["score"])) for row in rows)
        options = [len(row["options"]) for row in rows if row.get("options")]
        cut = tuple((str(row["doc_hash"]), float(row["unfinished"])) for row in rows if "unfinished" in row)
    except UNREADABLE:
        return {"scores": Missing(reason="the samples cannot be read")}
    if not all(math.isfinite(score) for _, score in scores):
        return {"scores": Missing(reason="a score is not finite")}
    chance = math.fsum(1 / number for number in options) / len(rows) if len(options) == len(rows) and rows else 0.0
    return {"scores": scores, "cut": cut if len(cut) == len(rows) else None, "chance": chance}


def _logprobs(source: Source, which: Literal["file", "file_again"]) -> Logprobs | Missing:
    """Return the checkpoint's log-probabilities of the held-out text; only a file that the manifest lists is opened."""
    result = source.result(EvalResult)
    if isinstance(result, Missing):
        return result
    if result.divergence is None:
        return Missing(reason="not measured (eval.divergence=null)")
    name = getattr(result.divergence, which)
    if name not in source.manifests[Stage.EVAL].files:
        return Missing(reason="no log-probabilities were stored")
    try:
        with np.load(source.folders[Stage.EVAL] / name, allow_pickle=False) as arrays:
            return Logprobs(**{field.name: arrays[field.name] for field in fields(Logprobs)})
    except (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, *UNREADABLE):
        return Missing(reason="the log-probabilities cannot be read")
