"""From manifests to the plain data for the comparison; unreadable data becomes `n/a` with the reason."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.manifest import Manifest
from pipeline.config import Stage
from pipeline.results.base import Missing
from pipeline.results.bench import UNREADABLE, speed_of
from pipeline.results.records import Logprobs, Record, Size, Speed, TaskScores
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source


def record_of(source: Source) -> Record:
    """Return all results of one variant."""
    bench, scores = source.finished(Stage.BENCH), source.finished(Stage.EVAL)
    return Record(
        name=source.name,
        label=source.label,
        family=source.family,
        is_baseline=source.is_baseline,
        emulated=emulated(source),
        size=_size(source),
        speed=speed_of(bench) if bench else Missing(reason=source.missing_reason(Stage.BENCH)),
        protocols={speed.protocol: speed for m in source.benchmarks if isinstance(speed := speed_of(m), Speed)},
        tasks=_tasks(scores, source.folders[Stage.EVAL])
        if scores
        else Missing(reason=source.missing_reason(Stage.EVAL)),
        divergence=_logprobs(source, "file"),
        divergence_again=_logprobs(source, "file_again"),
    )


def server_of(source: Source) -> Mapping[str, Any]:
    """Return the server's recorded properties: the benchmark's, else the evaluation's, else the verification's."""
    for stage in (Stage.BENCH, Stage.EVAL, Stage.VERIFY):
        manifest = source.finished(stage)
        server = manifest.results.get("server") if manifest else None
        if isinstance(server, Mapping):
            return server
    return {}


def emulated(source: Source) -> tuple[str, ...]:
    """Return the formats that this machine emulated while serving the variant, as recorded by its servers."""
    names: dict[str, None] = {}
    for stage in (Stage.BENCH, Stage.EVAL, Stage.VERIFY):
        manifest = source.finished(stage)
        server = manifest.results.get("server") if manifest else None
        for name in server.get("emulated") or () if isinstance(server, Mapping) else ():
            names[clean(name, 60)] = None
    return tuple(names)


def _size(source: Source) -> Size | Missing:
    made, checked = source.finished(Stage.QUANTIZE), source.finished(Stage.VERIFY)
    results = {**(made.results if made else {}), **(checked.results if checked else {})}
    if "bytes" not in results:
        return Missing(
            reason=source.missing_reason(Stage.QUANTIZE) if made is None else "the checkpoint's size was not recorded"
        )
    try:
        reference = results.get("baseline_bytes")
        return Size(bytes=int(results["bytes"]), baseline_bytes=None if reference is None else int(reference))
    except UNREADABLE:
        return Missing(reason="the recorded size is not a number")


def _tasks(manifest: Manifest, folder: Path) -> dict[str, TaskScores] | Missing:
    try:
        return {
            clean(label, 60): TaskScores(
                task=clean(item["task"], 60),
                metric=clean(item["metric"], 60),
                value=float(item["value"]),
                n=int(item["n"]),
                asked=int(item.get("asked", item["n"])),
                truncated=int(item.get("truncated", 0)),
                unfinished=int(item.get("unfinished", 0)),
                asked_again=int(item.get("asked_again", 0)),
                differing=int(item.get("differing", 0)),
                filters={clean(name, 40): float(value) for name, value in (item.get("filters") or {}).items()},
                scores=_scores(manifest, folder, str(label)),
            )
            for label, item in manifest.results["tasks"].items()
        }
    except UNREADABLE:
        return Missing(reason="the manifest of the scores cannot be read")


def _scores(manifest: Manifest, folder: Path, label: str) -> tuple[tuple[str, float], ...] | Missing:
    """Return the score of each item; only files listed in the manifest are opened."""
    name = f"samples/{label}.jsonl"
    if name not in manifest.files:
        return Missing(reason="no samples were stored")
    try:
        with (folder / name).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        scores = tuple((str(row["doc_hash"]), float(row["score"])) for row in rows)
    except (OSError, *UNREADABLE):
        return Missing(reason="the samples cannot be read")
    return scores if all(math.isfinite(score) for _, score in scores) else Missing(reason="a score is not finite")


def _logprobs(source: Source, which: str) -> Logprobs | Missing:
    """Return the checkpoint's log-probabilities of the held-out text; only files listed in the manifest are opened."""
    manifest = source.finished(Stage.EVAL)
    if manifest is None:
        return Missing(reason=source.missing_reason(Stage.EVAL))
    recorded = manifest.results.get("divergence")
    if recorded is None:
        return Missing(reason="not measured (eval.divergence=null)")
    name = recorded.get(which) if isinstance(recorded, Mapping) else None
    if not isinstance(name, str) or name not in manifest.files:
        return Missing(reason="no log-probabilities were stored")
    try:
        with np.load(source.folders[Stage.EVAL] / name, allow_pickle=False) as arrays:
            return Logprobs(**{field.name: arrays[field.name] for field in fields(Logprobs)})
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, *UNREADABLE):
        return Missing(reason="the log-probabilities cannot be read")
