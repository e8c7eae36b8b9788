"""A study with scores in `docs/results/`, small enough for git, and back as the report reads it.

    python -m tools.stored_scores outputs/<model> docs/results/<folder> [<model's config.json>]

What is kept: manifests without the folders of their machine, the summary of the calibration, the score of each item
and which answers were cut as bits (`items.json`), the items' hashes once for all variants (`items/`), and of the
log-probabilities the sums that a divergence is computed from. Answers, and log-probabilities of single tokens, are not
kept. The manifests list the files as they were made.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.artifacts.keys import sha256_of
from pipeline.artifacts.manifest import MANIFEST, Manifest
from pipeline.compare.stats.kl_divergence import sums_of
from pipeline.config.file_names import file_name
from pipeline.results.base import Missing
from pipeline.results.calibration import SUMMARY
from pipeline.results.item_scores import ItemScores
from pipeline.results.records import Logprobs
from pipeline.stages.report.collect.records import read_divergence

ITEMS = "items"
SCORES = "items.json"
MODEL = "model"
QUANTIZE = "quantize.json"
HASH_BYTES = 32
# Links of a variant that serves the demo's own files.
DEMO_LINK = re.compile(r'("link": ")[^"]*/(pipeline/demo/)')
BASELINE = "bf16"


def store(outputs: Path, folder: Path, config: Path | None = None) -> None:
    """Write the results of `outputs`, one of each stage and variant, to `folder`; `config` is a model's own."""
    made = {path: Manifest.model_validate_json(path.read_text(encoding="utf-8")) for path in _manifests(outputs)}
    folder.mkdir(parents=True)
    if config is not None:
        (folder / MODEL).mkdir()
        shutil.copy(config, folder / MODEL / "config.json")
    baseline = next(path.parent for path, m in made.items() if (m.variant, m.stage) == (BASELINE, "eval"))
    for path, manifest in made.items():
        text = _without_places(path.read_text(encoding="utf-8"), manifest)
        if manifest.stage in ("verify", "bench"):
            # They have an entry for each layer or repeat: indented, those are half as large again.
            text = json.dumps(json.loads(text), ensure_ascii=False) + "\n"
        if manifest.stage == "quantize":
            place = folder / str(manifest.variant) / QUANTIZE
        elif manifest.stage == "bench":
            block = int(manifest.payload.get("block", 0))
            # A benchmark that does not apply has no results.
            protocol = manifest.results.get("protocol", "bench") + (f"_block_{block + 1}" if block else "")
            place = folder / str(manifest.variant) / protocol / MANIFEST
        else:
            place = folder / (manifest.variant or "") / manifest.stage / MANIFEST
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        if manifest.stage == "calibrate":
            shutil.copy(path.with_name(SUMMARY), place.with_name(SUMMARY))
        if manifest.stage == "eval":
            _store_items(manifest, path.parent, place.parent, folder / ITEMS)
            for name in manifest.files:
                if name.endswith(".npz"):
                    _store_sums(path.parent / name, baseline / "divergence.npz", place.with_name(name))


def unpack(folder: Path, place: Path) -> None:
    """Write the samples of a stored evaluation, laid out at `place`, as the report reads them."""
    (place / "samples").mkdir()
    for label, stored in json.loads((place / SCORES).read_text(encoding="utf-8")).items():
        packed = (folder / ITEMS / f"{file_name(label)}.bin").read_bytes()
        hashes = [packed[start : start + HASH_BYTES].hex() for start in range(0, len(packed), HASH_BYTES)]
        rows: list[dict[str, Any]] = [{"doc_hash": each} for each in hashes]
        _fill(rows, "score", stored["scores"], hashes)
        if stored["cut"] is not None:
            _fill(rows, "unfinished", stored["cut"], hashes)
        if stored["options"]:
            rows = [{**row, "options": [""] * stored["options"]} for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "samples" / f"{file_name(label)}.jsonl").write_text(lines, encoding="utf-8")


def _fill(rows: Sequence[dict[str, Any]], name: str, stored: object, hashes: Sequence[str]) -> None:
    scores = ItemScores.model_validate(stored)
    values = scores.values().tolist()
    if scores.items != ItemScores.of([(each, 0.0) for each in hashes]).items:
        raise SystemExit(f"results: {name} is of other items")
    for row, value in zip(rows, values, strict=True):
        row[name] = value


def _manifests(outputs: Path) -> Iterator[Path]:
    stages = ("quantize", "verify", "bench", "eval")
    yield from sorted(outputs.glob(f"calibrate-*/{MANIFEST}"))
    yield from sorted(path for stage in stages for path in outputs.glob(f"*/{stage}-*/{MANIFEST}"))


def _without_places(text: str, manifest: Manifest) -> str:
    """Return a manifest's text without the folders that hold `outputs/` and the project on its machine."""
    text = DEMO_LINK.sub(r"\1\2", text)
    for named in manifest.overrides:
        if named.startswith("outputs="):
            text = text.replace(f"{PurePosixPath(named.partition('=')[2]).parent}/", "")
    return text


def _store_items(manifest: Manifest, source: Path, place: Path, items: Path) -> None:
    found = {}
    for label in manifest.results["tasks"]:
        lines = (source / "samples" / f"{file_name(label)}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        options = {len(row.get("options") or ()) for row in rows}
        if len(options) != 1:
            raise SystemExit(f"{label}: items with different numbers of options are not stored yet")
        cut = [(row["doc_hash"], float(row["unfinished"])) for row in rows if "unfinished" in row]
        found[label] = {
            "scores": ItemScores.of([(row["doc_hash"], row["score"]) for row in rows]).model_dump(),
            "cut": ItemScores.of(cut).model_dump() if cut else None,
            "options": options.pop(),
        }
        packed = b"".join(sorted(bytes.fromhex(row["doc_hash"]) for row in rows))
        path = items / f"{file_name(label)}.bin"
        path.parent.mkdir(exist_ok=True)
        if path.is_file() and path.read_bytes() != packed:
            raise SystemExit(f"{label}: {manifest.variant} was asked other items")
        path.write_bytes(packed)
    (place / SCORES).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _store_sums(variant: Path, reference: Path, place: Path) -> None:
    sums = sums_of(_logprobs(variant), _logprobs(reference), sha256_of(reference))
    if isinstance(sums, Missing):
        raise SystemExit(f"{variant}: {sums.reason}")
    np.savez_compressed(place, **asdict(sums))


def _logprobs(path: Path) -> Logprobs:
    found = read_divergence(path)
    if not isinstance(found, Logprobs):
        raise SystemExit(f"{path} holds the sums already")
    return found


if __name__ == "__main__":
    store(*map(Path, sys.argv[1:]))
