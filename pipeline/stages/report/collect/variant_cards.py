"""The recorded data of each variant: recipe, machine, versions, checks, hashes. Absolute paths are shortened."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.manifest import Manifest
from pipeline.config import PACKAGE, Stage
from pipeline.results.bench import UNREADABLE
from pipeline.results.text import clean
from pipeline.results.verify import Answer, Check
from pipeline.stages.report.collect.artifacts import READ, Source
from pipeline.stages.report.collect.records import emulated, server_of
from pipeline.stages.report.document import Card, Digest, Step
from pipeline.stages.report.number_format import duration, plain, size_unit

# Longer texts are truncated with an ellipsis; the manifest has the whole text.
LONG = 600
FILES = 24


def card_of(source: Source, outputs: Path) -> Card:
    """Return the card of one variant."""
    server = server_of(source)
    made, checked = source.finished(Stage.QUANTIZE), source.finished(Stage.VERIFY)
    scored = source.finished(Stage.EVAL)
    latest = next((m for s in reversed(READ) if (m := source.manifests.get(s)) is not None), None)
    versions = {**(latest.versions if latest else {}), **_mapping(server.get("versions"))}
    commit = (latest.provenance if latest else {}).get("commit")
    if commit:
        versions["commit"] = f"{commit[:12]}{' (with local changes)' if latest and latest.provenance['dirty'] else ''}"

    def short(text: Any) -> str:
        return shorten(clean(text, LONG), outputs)

    return Card(
        name=source.name,
        label=source.label,
        failure=short(source.failure) if source.failure else "",
        recipe={
            "KV cache": source.kv_dtype,
            **_recipe(source),
            **(_made(made) if made else {}),
            **_layers(scored.results if scored else {}),
        },
        calibration=_calibration(source),
        serving=_serving(server),
        machine={clean(name): plain(value) for name, value in (latest.hardware if latest else {}).items()},
        versions={clean(name): clean(version, 80) for name, version in versions.items()},
        emulated=emulated(source),
        kernels=tuple(clean(name, 80) for name in server.get("kernels") or ()),
        command=short(shlex.join(str(part) for part in server.get("argv") or ())),
        log=short(server.get("log") or ""),
        steps=tuple(_steps(source, outputs)),
        checks=tuple(_checks(checked.results if checked else {}, outputs)),
        answers=tuple(_answers(checked.results if checked else {})),
        files=tuple(
            Digest(name=clean(name, 120), bytes=record.size, sha256=clean(record.sha256, 64))
            for name, record in list((made.files if made else {}).items())[:FILES]
        ),
    )


def shorten(text: str, outputs: Path) -> str:
    """Strip the leading folders from paths below the project, the outputs and the home folder."""
    for folder, name in ((outputs.resolve(), outputs.name), (PACKAGE.parent, "."), (Path.home(), "~")):
        if len(folder.parts) > 1:
            text = text.replace(str(folder), name or ".")
    return text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _recipe(source: Source) -> dict[str, str]:
    """Return the settings in effect: those of other algorithms are left out."""
    quant = {name: value for name, value in source.quant.items() if name not in ("name", "title") and value is not None}
    if quant.get("engine") == "none":
        return {"checkpoint": "the original, unchanged"}
    for name, algorithm in (("smoothing_strength", "smoothquant"), ("dampening", "gptq")):
        if quant.get("algorithm") != algorithm:
            quant.pop(name, None)
    return {clean(name): plain(value) for name, value in quant.items()}


def _made(manifest: Manifest) -> dict[str, str]:
    layers = manifest.results.get("quantized_layers")
    found = {"made in": duration(manifest.seconds)} if layers else {}
    if layers is not None:
        found["quantized layers"] = plain(layers)
    if isinstance(peak := manifest.results.get("peak_gpu_bytes"), int):
        unit, divisor = size_unit([peak])
        found["peak GPU memory"] = f"{peak / divisor:.1f} {unit}"
    return found


def _layers(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the layers with the largest output error from BF16, if measured."""
    found = _mapping(results.get("layers"))
    try:
        worst = [f"{clean(each['module'], 80)} {float(each['snr_db']):.1f} dB" for each in found["worst"][:3]]
        return {"largest output errors": f"{', '.join(worst)}; median {float(found['median_db']):.1f} dB"}
    except UNREADABLE:
        return {}


def _calibration(source: Source) -> dict[str, str]:
    manifest = source.finished(Stage.CALIBRATE)
    payload = manifest.payload if manifest else {}
    return {clean(name): plain(value)[:LONG] for name, value in payload.items() if name != "model"}


def _serving(server: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    if isinstance(server.get("ready_s"), int | float):
        found["ready after"] = duration(server["ready_s"])
    if isinstance(server.get("kv_cache_tokens"), int):
        found["KV cache holds"] = f"{server['kv_cache_tokens']:,} tokens"
    return found


def _steps(source: Source, outputs: Path) -> Iterator[Step]:
    for stage in READ:
        manifest = source.manifests.get(stage)
        if manifest is not None:
            yield Step(
                stage=stage.value,
                status=manifest.status,
                reason=shorten(clean(manifest.reason or "", LONG), outputs),
                key=clean(manifest.key[:12]),
                started=clean(manifest.started[:19]).replace("T", " "),
                seconds=manifest.seconds,
            )
        elif stage is not Stage.CALIBRATE:
            yield Step(stage=stage.value, status="missing", reason=source.missing_reason(stage))


def _checks(results: Mapping[str, Any], outputs: Path) -> Iterator[Check]:
    for item in results.get("checks") or ():
        try:
            detail = shorten(clean(item.get("detail") or "", LONG), outputs)
            yield Check(name=clean(item["name"], 80), ok=bool(item["ok"]), detail=detail)
        except UNREADABLE:
            continue


def _answers(results: Mapping[str, Any]) -> Iterator[Answer]:
    for item in results.get("canary") or ():
        try:
            yield Answer(prompt=clean(item["prompt"], LONG), answer=clean(item["answer"], LONG))
        except UNREADABLE:
            continue
