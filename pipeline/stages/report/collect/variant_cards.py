"""The recorded data of each variant: recipe, machine, versions, checks, hashes. Absolute paths are shortened."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import PACKAGE, Stage
from pipeline.config.quant import EXISTING
from pipeline.formats.schemes import GPTQ, SMOOTHQUANT
from pipeline.results.base import Missing
from pipeline.results.eval import EvalResult, LayerErrors
from pipeline.results.quantize import QuantizeResult
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean
from pipeline.results.verify import CanaryAnswer, Check, VerifyResult
from pipeline.stages.report.collect.artifacts import READ, Source
from pipeline.stages.report.collect.records import emulated, server_of
from pipeline.stages.report.document import Card, Digest, Step
from pipeline.stages.report.number_format import duration, plain, size_unit

# Longer texts are truncated with an ellipsis; the manifest has the whole text.
LONG = 600
FILES = 24
# Experts that are named of those without tokens.
NAMED = 24


def card_of(source: Source, outputs: Path) -> Card:
    """Return the card of one variant."""
    server = server_of(source)
    made, checked = source.finished(Stage.QUANTIZE), source.result(VerifyResult)
    latest = next((m for s in reversed(READ) if (m := source.manifests.get(s)) is not None), None)
    versions = {**(latest.versions if latest else {}), **server.versions}
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
            **_made(source),
            **_layers(source),
        },
        calibration=_calibration(source),
        serving=_serving(server),
        machine={clean(name): plain(value) for name, value in (latest.hardware if latest else {}).items()},
        versions={clean(name): clean(version, 80) for name, version in versions.items()},
        emulated=emulated(source),
        kernels=tuple(clean(name, 80) for name in server.kernels),
        command=short(shlex.join(server.argv)),
        log=short(server.log or ""),
        steps=tuple(_steps(source, outputs)),
        checks=() if isinstance(checked, Missing) else tuple(_check(check, outputs) for check in checked.checks),
        answers=() if isinstance(checked, Missing) else tuple(_answer(answer) for answer in checked.canary),
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


def _recipe(source: Source) -> dict[str, str]:
    """Return the settings in effect: those of other algorithms are left out."""
    quant = {name: value for name, value in source.quant.items() if name not in ("name", "title") and value is not None}
    if quant.get("engine") == "none":
        return {"checkpoint": "the original, unchanged"}
    if quant.get("engine") == EXISTING:
        return _their_recipe(quant)
    for name, algorithm in (("smoothing_strength", SMOOTHQUANT), ("dampening", GPTQ)):
        if algorithm not in str(quant.get("algorithm")):
            quant.pop(name, None)
    return {clean(name): plain(value) for name, value in quant.items()}


def _their_recipe(quant: Mapping[str, Any]) -> dict[str, str]:
    """Return what the checkpoint of others says of itself."""
    said = {
        "quantized by": "others; it is served as it is",
        "format": quant.get("described") or quant.get("scheme"),
        "weights stored as": quant.get("stored_as"),
        "algorithm": quant.get("algorithm"),
        "from": quant.get("checkpoint"),
        "commit": quant.get("revision"),
    }
    return {name: clean(value, LONG) for name, value in said.items() if value}


def _made(source: Source) -> dict[str, str]:
    manifest, made = source.finished(Stage.QUANTIZE), source.result(QuantizeResult)
    if manifest is None or isinstance(made, Missing):
        return {}
    is_made = made.quantized_layers and source.quant.get("engine") != EXISTING
    found = {"made in": duration(manifest.seconds)} if is_made else {}
    found["quantized layers"] = plain(made.quantized_layers)
    if made.cast_from:
        found["source weights"] = f"{clean(made.cast_from, 40)}, cast to BF16 first"
    if made.rounded_experts:
        named = ", ".join(clean(name, 80) for name in made.rounded_experts[:NAMED])
        more = f" and {len(made.rounded_experts) - NAMED:,} more" if len(made.rounded_experts) > NAMED else ""
        found["experts rounded to nearest, without tokens"] = f"{named}{more}"
    if made.peak_gpu_bytes is not None:
        unit, divisor = size_unit([made.peak_gpu_bytes])
        found["peak GPU memory"] = f"{made.peak_gpu_bytes / divisor:.1f} {unit}"
    return found


def _layers(source: Source) -> dict[str, str]:
    """Return the layers with the largest output error from BF16, if measured."""
    scored = source.result(EvalResult)
    if isinstance(scored, Missing) or not isinstance(scored.layers, LayerErrors):
        return {}
    worst = [f"{clean(each.module, 80)} {each.snr_db:.1f} dB" for each in scored.layers.worst[:3]]
    unseen = f"; {scored.layers.unrouted:,} Linears of experts met no token" if scored.layers.unrouted else ""
    return {"largest output errors": f"{', '.join(worst)}; median {scored.layers.median_db:.1f} dB{unseen}"}


def _calibration(source: Source) -> dict[str, str]:
    manifest = source.finished(Stage.CALIBRATE)
    payload = manifest.payload if manifest else {}
    return {clean(name): plain(value)[:LONG] for name, value in payload.items() if name != "model"}


def _serving(server: ServerFacts) -> dict[str, str]:
    found = {}
    if server.ready_s is not None:
        found["ready after"] = duration(server.ready_s)
    if server.kv_cache_tokens is not None:
        found["KV cache holds"] = f"{server.kv_cache_tokens:,} tokens"
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


def _check(check: Check, outputs: Path) -> Check:
    return Check(name=clean(check.name, 80), ok=check.ok, detail=shorten(clean(check.detail, LONG), outputs))


def _answer(answer: CanaryAnswer) -> CanaryAnswer:
    return CanaryAnswer(prompt=clean(answer.prompt, LONG), answer=clean(answer.answer, LONG))
