"""A study is stored small and comes back as the report reads it."""

import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from support.synthetic_results import write_logprobs

from pipeline.artifacts.manifest import MANIFEST, Manifest
from pipeline.compare.stats.kl_divergence import diverge
from pipeline.results.eval import EvalResult
from pipeline.results.item_scores import ItemScores
from pipeline.results.records import DivergenceSums
from pipeline.stages.report.collect.records import read_divergence, samples_of
from tools.headline import TRAINED
from tools.stored_results import DEMO, FOLDER
from tools.stored_scores import SCORES, store, unpack

REPORTS = {host: json.loads((FOLDER / host / "report.json").read_text(encoding="utf-8")) for host in (TRAINED, DEMO)}
ROWS = {(host, row["name"]): row for host, report in REPORTS.items() for row in report["comparison"]["rows"]}
SCORED = {"Choice": [1.0, 0.0, 1.0], "Text": [0.0, 0.0, 1.0], "Graded": [0.25, 1.0, 0.5]}


@pytest.mark.parametrize(("host", "variant"), ROWS)
def test_the_stored_report_is_that_of_its_files(host, variant, tmp_path):
    place, row = tmp_path / "eval", ROWS[host, variant]
    shutil.copytree(FOLDER / host / variant / "eval", place)
    unpack(FOLDER / host, place)
    manifest = Manifest.model_validate_json((place / MANIFEST).read_text(encoding="utf-8"))
    result = EvalResult.model_validate(manifest.results)
    # The page calls the demo's stand-ins by another name than the benchmarks.
    names = {label: next(name for name in row["tasks"] if name.endswith(label)) for label in result.tasks}
    assert list(names.values()) == list(row["tasks"])
    for label, task in result.tasks.items():
        found = samples_of(manifest, place, label)
        assert np.mean([score for _, score in found["scores"]]) == pytest.approx(task.value)
        assert len(found["scores"]) == task.n
        assert sum(cut for _, cut in found["cut"] or ()) == task.unfinished
        assert found["chance"] == (0.25 if label in ("C-Eval", "MMLU") else 0)
        assert ItemScores.of(found["scores"]).model_dump() == REPORTS[host]["answers"][variant][names[label]]
    last = "divergence_again.npz" if variant == "bf16" else "divergence.npz"
    own = read_divergence(FOLDER / host / "bf16" / "eval" / "divergence.npz")
    assert isinstance(own, DivergenceSums)
    cell = diverge(read_divergence(place / last), own)
    assert cell.kl.value == pytest.approx(row["divergence"]["kl"]["value"])


@pytest.mark.parametrize(("host", "most_bytes"), [(TRAINED, 3.7e6), (DEMO, 1.6e6)])
def test_the_stored_folder_is_small_and_names_no_machine(host, most_bytes):
    files = [path for path in (FOLDER / host).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < most_bytes
    for path in files:
        if path.suffix in (".json", ".md", ".html"):
            text = path.read_text(encoding="utf-8")
            assert not any(place in text for place in ("/root/", "/tmp/", "/home/", "/work/")), path


def hash_of(item):
    return hashlib.sha256(item.encode()).hexdigest()


@pytest.fixture
def outputs(tmp_path):
    """Results of two variants, each with three items of three tasks, in another order."""
    root = tmp_path / "outputs" / "tiny"
    add(root, "calibrate", None, {})
    next(root.glob("calibrate-*/")).joinpath("summary.json").write_text("{}")
    for variant, order in (("bf16", (0, 1, 2)), ("near", (2, 0, 1))):
        for stage in ("quantize", "verify"):
            add(root, stage, variant, {"place": "/machine/outputs/tiny"})
        folder = add(root, "eval", variant, {"tasks": {label: {} for label in SCORED}})
        write_logprobs(folder, 0.0 if variant == "bf16" else 0.3, variant)
        (folder / "samples").mkdir()
        for label, scores in SCORED.items():
            rows = [{"doc_hash": hash_of(f"{label}{i}"), "score": scores[i], **extra(label, i)} for i in order]
            (folder / "samples" / f"{label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text("{}")
    return root


def extra(label, item):
    return {"options": ["A", "B"]} if label == "Choice" else {"unfinished": item == 1}


def add(root, stage, variant, results):
    folder = root / (variant or "") / f"{stage}-12345678"
    folder.mkdir(parents=True)
    files = ["divergence.npz", *(f"samples/{label}.jsonl" for label in SCORED)] if stage == "eval" else []
    manifest = Manifest(
        stage=stage,
        model="tiny",
        variant=variant,
        status="ok",
        key="1" * 64,
        payload={},
        overrides=["outputs=/machine/outputs"],
        started="2026-11-30",
        seconds=1.0,
        results=results,
        files={name: {"size": 1, "sha256": "0"} for name in files},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return folder


def test_scores_and_divergence_come_back_as_they_were(outputs, tmp_path):
    folder = tmp_path / "stored"
    store(outputs, folder, tmp_path / "config.json")
    near = folder / "near"
    assert "/machine" not in (near / "quantize.json").read_text() + (near / "verify" / MANIFEST).read_text()
    assert (folder / "calibrate" / "summary.json").is_file() and (folder / "model" / "config.json").is_file()
    unpack(folder, near / "eval")
    manifest = Manifest.model_validate_json((near / "eval" / MANIFEST).read_text())
    for label, scores in SCORED.items():
        found = samples_of(manifest, near / "eval", label)
        assert dict(found["scores"]) == {hash_of(f"{label}{i}"): score for i, score in enumerate(scores)}
        assert found["chance"] == (0.5 if label == "Choice" else 0)
        expected = None if label == "Choice" else {hash_of(f"{label}{i}"): float(i == 1) for i in range(3)}
        assert (dict(found["cut"]) if found["cut"] else None) == expected
    bf16, ours = (read_divergence(outputs / each / "eval-12345678" / "divergence.npz") for each in ("bf16", "near"))
    sums = [read_divergence(folder / each / "eval" / "divergence.npz") for each in ("near", "bf16")]
    assert all(isinstance(each, DivergenceSums) for each in sums)
    assert diverge(*sums) == diverge(ours, bf16)


def test_what_does_not_belong_together_is_refused(outputs, tmp_path):
    folder = tmp_path / "stored"
    store(outputs, folder, tmp_path / "config.json")
    (folder / "items" / "Text.bin").write_bytes(bytes(96))
    with pytest.raises(SystemExit, match="score is of other items"):
        unpack(folder, folder / "near" / "eval")
    samples = outputs / "near" / "eval-12345678" / "samples"
    rows = (samples / "Choice.jsonl").read_text()
    (samples / "Choice.jsonl").write_text(rows.replace('["A", "B"]', '["A"]', 1))
    with pytest.raises(SystemExit, match="different numbers of options"):
        store(outputs, tmp_path / "second", tmp_path / "config.json")
    (samples / "Choice.jsonl").write_text(rows.replace(hash_of("Choice0"), hash_of("another")))
    with pytest.raises(SystemExit, match="near was asked other items"):
        store(outputs, tmp_path / "third", tmp_path / "config.json")
    (samples / "Choice.jsonl").write_text(rows)
    path = outputs / "near" / "eval-12345678" / "divergence.npz"
    logprobs = read_divergence(path)
    np.savez(path, **{**asdict(logprobs), "token": logprobs.token + 1})
    with pytest.raises(SystemExit, match="the tokens differ"):
        store(outputs, tmp_path / "fourth", tmp_path / "config.json")


def test_the_stored_items_of_a_variant_are_few_bytes():
    stored = json.loads((FOLDER / TRAINED / "awq" / "eval" / SCORES).read_text(encoding="utf-8"))
    assert stored["MMLU"]["scores"]["kind"] == "bits" and stored["MMLU"]["options"] == 4
