"""A checkpoint of others goes through the gate as far as it can be judged, and its faults are told as theirs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.settings import variants_of
from support.tiny_checkpoints import base_model, native_awq, native_gptq

from pipeline.config import Command, Stage
from pipeline.errors import ConfigError, StageError
from pipeline.job import Job
from pipeline.results.quantize import QuantizeResult
from pipeline.results.verify import CHECKS, CanaryAnswers, Check
from pipeline.runner import Runner
from pipeline.stages.verify import gate

OFFLINE = CHECKS[: CHECKS.index("BF16 reference")]


def linked(folder: Path, outputs: Path, *overrides: str) -> Job:
    """The job of a checkpoint that others made, with its artifact of links."""
    given = ["stage=quantize", f"variants=['folder:{folder}']", f"outputs={outputs}", *overrides]
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0
    return run.jobs[-1]


def gated(job: Job, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """What the checks say that need no server."""
    monkeypatch.setattr(gate, "CHECKS", OFFLINE)
    monkeypatch.setattr(Job, "server", lambda self: SimpleNamespace(facts=dict))
    draft = SimpleNamespace()
    gate.verify(job, draft)
    return {check.name: check for check in draft.results.checks}


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def theirs(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """The demo model in W4A16, in a folder of someone else."""
    return Path(shutil.copytree(checkpoint("w4a16"), tmp_path / "Demo-W4A16"))


def test_a_checkpoint_that_the_pipeline_made_passes_as_anyones(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = linked(theirs, tmp_path / "outputs")
    made = job.artifact(Stage.QUANTIZE).manifest()
    assert made is not None
    assert made.files["checkpoint/model.safetensors"].link == str(theirs / "model.safetensors")
    assert QuantizeResult.model_validate(made.results).quantized_layers == 28
    found = gated(job, monkeypatch)
    assert [check.name for check in found.values() if check.ok is False] == []
    assert [check.name for check in found.values() if check.ok is None] == ["activation scales"]
    assert "28 compared with BF16" in found["weights"].detail
    assert "28 of 28" in found["layers"].detail


@pytest.mark.parametrize("quant", ["awq", "fp8_dynamic", "int8_dynamic"])
def test_formats_that_do_not_say_how_they_were_rounded_are_compared(
    quant: str, checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(checkpoint(quant), tmp_path / quant))
    job = linked(folder, tmp_path / "outputs")
    assert job.settings.quant.algorithm == "unknown"
    found = gated(job, monkeypatch)
    assert [check for check in found.values() if check.ok is False] == []
    assert found["weights"].ok


def test_what_is_wrong_with_it_is_told_and_does_not_refuse_it(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight_scale"] *= 2
        tensors["model.embed_tokens.weight"][3] += 1
        del tensors["model.layers.2.mlp.up_proj.weight_packed"]

    edit(theirs, damage)
    found = gated(linked(theirs, tmp_path / "outputs"), monkeypatch)
    assert list(found) == list(OFFLINE)
    assert {name for name, check in found.items() if check.ok is False} == {"size", "untouched", "weights"}
    assert "model.embed_tokens.weight" in found["untouched"].detail


def test_what_they_wrote_anew_is_told(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (theirs / "generation_config.json").write_text("{}")
    tokenizer = json.loads((theirs / "tokenizer.json").read_text())
    (theirs / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = gated(linked(theirs, tmp_path / "outputs"), monkeypatch)
    assert found["files"].ok is None
    assert "the tokens are BF16's; written anew: generation_config.json, tokenizer.json" in found["files"].detail


def test_other_positions_in_its_config_are_told(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    found = gated(linked(theirs, tmp_path / "outputs"), monkeypatch)
    assert (found["files"].ok, "rms_norm_eps=0.5" in found["files"].detail) == (False, True)


def test_a_truncated_file_is_refused(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = linked(theirs, tmp_path / "outputs")
    path = theirs / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StageError, match="truncated") as error:
        gated(job, monkeypatch)
    assert "Others made this checkpoint" in error.value.remedy


def test_a_format_that_is_not_known_is_not_judged(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((theirs / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq"}
    (theirs / "config.json").write_text(json.dumps(config))
    found = gated(linked(theirs, tmp_path / "outputs"), monkeypatch)
    unknown = {name for name, check in found.items() if check.ok is None}
    assert {"size", "scales", "weights"} <= unknown
    assert "Demo-W4A16 (hqq)" in found["weights"].detail


def test_the_distance_of_answers_is_told_where_no_bound_is_known(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((theirs / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq"}
    (theirs / "config.json").write_text(json.dumps(config))
    job = linked(theirs, tmp_path / "outputs")
    found = gate.Findings(reference=CanaryAnswers(tokens=(1, 2, 3), logprobs=(-1.0, -2.0, -3.0)))
    answers = CanaryAnswers(tokens=(1, 2, 3), logprobs=(-1.0, -2.0, -3.1))
    with pytest.raises(gate.NotCompared, match=r"0\.0707 of their spread away.*hqq"):
        gate.log_probabilities(job, found, answers)


@pytest.mark.parametrize(
    ("write", "scheme"),
    [(native_awq, "W4A16_ASYM"), (lambda folder: native_gptq(folder, 4), "W4A16")],
    ids=["AutoAWQ", "GPTQ"],
)
def test_other_engines_own_layouts_are_compared(
    write: Callable[[Path], Any], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "theirs")
    source = tmp_path / "model"
    source.mkdir()
    model = base_model()
    save_file({name: each.bfloat16() for name, each in model.state_dict().items()}, source / "model.safetensors")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    for folder in (source, tmp_path / "theirs"):
        (folder / "tokenizer.json").write_text("{}")
    job = linked(tmp_path / "theirs", tmp_path / "outputs", f"model.path={source}")
    assert (job.settings.quant.scheme, job.settings.quant.effective_group_size) == (scheme, 32)
    found = gated(job, monkeypatch)
    assert [check for check in found.values() if check.ok is False] == []
    assert "14 compared with BF16" in found["weights"].detail


def test_it_is_theirs_to_publish(theirs: Path, tmp_path: Path) -> None:
    given = ["stage=publish", f"variants=['folder:{theirs}']", f"outputs={tmp_path}"]
    with pytest.raises(ConfigError, match="quantized by others"):
        Runner(variants_of(*given), given)
    assert Command.PUBLISH in variants_of(*given)[0].stage


def test_the_page_names_its_folder_its_format_and_its_faults(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(theirs, lambda tensors: tensors["model.embed_tokens.weight"][3].add_(1))
    monkeypatch.setattr(gate, "CHECKS", OFFLINE)
    monkeypatch.setattr(Job, "server", lambda self: SimpleNamespace(facts=dict))
    given = ["stage=[verify,report]", f"variants=[bf16,'folder:{theirs}']", f"outputs={tmp_path / 'outputs'}"]
    given += ["report.formats=[md,json]"]
    assert Runner(variants_of(*given), given).execute() == 0
    report = tmp_path / "outputs" / "demo" / "report"
    page = (report / "report.md").read_text()
    assert "Demo-W4A16 (W4A16)" in page
    assert "was quantized by others, and the gate found in it: untouched" in page
    cards = {card["label"]: card for card in json.loads((report / "report.json").read_text())["cards"]}
    recipe = cards["Demo-W4A16 (W4A16)"]["recipe"]
    assert recipe["quantized by"] == "others; it is served as it is"
    assert (recipe["format"], recipe["weights stored as"]) == ("W4A16", "pack-quantized")
    recorded = ["stage=report", "quant=bf16", "report.recorded=true", *given[2:]]
    assert Runner(variants_of(*recorded), recorded).execute() == 0
    assert "Demo-W4A16 (W4A16)" in (report / "report.md").read_text(), "by its manifest alone"
