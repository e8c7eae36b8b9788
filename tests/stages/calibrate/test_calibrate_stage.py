"""The stage as a user runs it: its files, its repetition, its reuse for the right model alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifacts.keys import sha256_of
from pipeline.config import PROJECT_ROOT, Stage
from pipeline.demo import CALIBRATION, CHECKPOINT
from pipeline.errors import ConfigError, InputError
from pipeline.formats.schemes import CALIBRATED
from pipeline.results.calibration import CARD, CHECKED, RANGES, SKETCHES, SUMMARY, TOKENS, observations_key
from pipeline.runner import Runner
from pipeline.stages.calibrate.artifact import read_ranges, read_tokens
from pipeline.stages.calibrate.clipping import TECHNIQUES

FEW = "calibration.num_samples=12"


@pytest.fixture
def make(settings, tmp_path: Path):
    def made(*overrides: str, outputs: str = "outputs") -> Path:
        given = ("stage=calibrate", "quant=fp8_static", f"outputs={tmp_path / outputs}", FEW, *overrides)
        run = Runner([settings(*given)], list(given))
        run.execute()
        if run.failures:
            raise next(iter(run.failures.values()))
        return run.jobs[0].artifact(Stage.CALIBRATE).folder

    return made


def test_the_artifact_holds_tokens_sketches_ranges_card_and_summary(make) -> None:
    folder = make()
    assert {path.name for path in folder.iterdir()} == {TOKENS, SKETCHES, RANGES, SUMMARY, CARD, "manifest.json"}
    assert len(read_tokens(folder)) == 12
    summary = json.loads((folder / SUMMARY).read_text())
    assert summary["conversations"] == 12
    assert summary["tokens"] == sum(ids.numel() for ids in read_tokens(folder))
    assert len(summary["worst"]) == 10
    assert sum(summary["card"]["lengths"]["counts"]) == 12
    for site in summary["sites"]:
        for curve in site["convergence"].values():
            assert len(curve) == len(summary["samples_at"])
        assert site["convergence"]["minmax"][-1] == pytest.approx(max(-site["minimum"], site["maximum"]))
    for item in summary["worst"]:
        assert len(item["edges"]) == len(item["counts"]) + 1
    card = (folder / CARD).read_text()
    assert "calibration.json" in card
    assert "GSM8K" in card


def test_ranges_are_nested_in_what_was_seen(make) -> None:
    ranges = load_file(make() / RANGES)
    module = "model.layers.1.mlp.down_proj"
    whole = ranges[f"minmax.fp8_e4m3.{module}"]
    for technique in TECHNIQUES:
        for number in CALIBRATED:
            low, high = ranges[f"{technique}.{number}.{module}"]
            assert whole[0] <= low <= 0 <= high <= whole[1]
    channels = ranges[f"minmax.channels.{module}"]
    assert torch.equal(torch.stack([channels[:, 0].min(), channels[:, 1].max()]), whole)
    heads = ranges["minmax.fp8_e4m3.model.layers.1.self_attn.k.heads"]
    assert heads.shape == (4, 2)
    assert float(heads[:, 1].max()) == float(ranges["minmax.fp8_e4m3.model.layers.1.self_attn.k"][1])


def test_the_same_seed_and_set_give_the_same_bits(make) -> None:
    one, other = make(outputs="one"), make(outputs="other")
    for name in (TOKENS, SKETCHES, RANGES, SUMMARY):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_padding_by_the_tokenizer_changes_no_range(make, tmp_path: Path) -> None:
    copy = tmp_path / "padding"
    shutil.copytree(CHECKPOINT, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": {"Fixed": 300}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    (copy / "tokenizer.json").write_text(json.dumps(content))
    plain, padded = make(outputs="plain"), make(f"model.path={copy}", outputs="padded")
    assert (plain / RANGES).read_bytes() == (padded / RANGES).read_bytes()


def test_another_technique_reruns_nothing_and_changes_the_scales(make, settings) -> None:
    folder = make()
    assert make("calibration.observer=mse") == folder
    assert make("calibration.observer=percentile", "calibration.percentile=99") == folder
    by = {
        name: read_ranges(folder, settings(f"calibration.observer={name}").calibration, "fp8_e4m3")
        for name in TECHNIQUES
    }
    assert len({tuple(sorted(ranges.items())) for ranges in by.values()}) == len(TECHNIQUES)


def test_another_evaluation_makes_another_card_and_the_same_observations(job) -> None:
    one = job().artifact(Stage.CALIBRATE)
    other = job("~eval.tasks.GSM8K").artifact(Stage.CALIBRATE)
    assert one.key != other.key
    assert one.payload[CHECKED] != other.payload[CHECKED]
    assert observations_key(one.payload) == observations_key(other.payload)
    quantized = [asked.artifact(Stage.QUANTIZE).key for asked in (job(), job("~eval.tasks.GSM8K"))]
    assert quantized[0] == quantized[1]
    assert observations_key(one.payload) != observations_key(
        job("calibration.seed=1").artifact(Stage.CALIBRATE).payload
    )


def test_a_finished_calibration_can_be_used_elsewhere(make) -> None:
    given = make(outputs="theirs")
    taken = make(f"calibration.artifact={given}", outputs="ours")
    assert taken != given
    assert (taken / SKETCHES).read_bytes() == (given / SKETCHES).read_bytes()


def test_a_calibration_of_another_model_or_template_is_refused_with_what_differs(make, tmp_path: Path) -> None:
    given = make(outputs="theirs")
    copy = tmp_path / "model"
    shutil.copytree(CHECKPOINT, copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(InputError, match=r"made with another model: model.files.chat_template.jinja \w+ -> \w+"):
        make(f"calibration.artifact={given}", f"model.path={copy}", outputs="ours")
    with pytest.raises(InputError, match=r"enable_thinking=None, not False"):
        make(f"calibration.artifact={given}", "calibration.enable_thinking=false", outputs="ours")
    with pytest.raises(InputError, match="no finished calibration"):
        make(f"calibration.artifact={tmp_path}", outputs="ours")


def test_a_calibration_that_was_changed_is_refused(make) -> None:
    given = make(outputs="theirs")
    (given / SKETCHES).write_bytes(b"no")
    with pytest.raises(InputError, match=f"{SKETCHES} is gone or has changed"):
        make(f"calibration.artifact={given}", outputs="ours")


@pytest.mark.parametrize("value", ["0", "-1", "100.5"])
def test_a_percentile_outside_its_range_is_refused_by_name(settings, value: str) -> None:
    with pytest.raises(ConfigError, match=r"calibration.percentile="):
        settings("calibration.observer=percentile", f"calibration.percentile={value}")


def test_a_technique_that_there_is_not_is_refused_with_those_there_are(settings) -> None:
    with pytest.raises(ConfigError, match=r"calibration.observer='max'.*minmax.*entropy"):
        settings("calibration.observer=max")


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT_ROOT / "conf" / "calibration").glob("*.yaml")))
def test_every_preset_composes(settings, name: str) -> None:
    assert settings(f"calibration={name}").calibration.name == name


def test_a_mix_is_stored_so_that_the_first_sequences_are_of_all_sets(make, conversations) -> None:
    from transformers import AutoTokenizer

    paths = [conversations(*(f"{n} {word}?" for n in range(9)), name=f"{word}.jsonl") for word in ("apples", "pears")]
    folder = make(f"calibration.dataset.path={paths[0]}", f"+calibration.mix.other.path={paths[1]}")
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    first = [tokenizer.decode(ids.flatten()) for ids in read_tokens(folder)[:6]]
    assert 2 <= sum("pears" in text for text in first) <= 4
    assert [source["taken"] for source in json.loads((folder / SUMMARY).read_text())["card"]["sources"]] == [6, 6]


def test_only_what_changes_the_result_changes_the_key(job, tmp_path: Path) -> None:
    def added(*overrides: str) -> dict[str, object]:
        payload = job(*overrides).artifact(Stage.CALIBRATE).payload
        return {name: payload[name] for name in ("date", "order", "special_tokens", "counted_from") if name in payload}

    copy = tmp_path / "dated"
    shutil.copytree(CHECKPOINT, copy)
    (copy / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}{{ messages[0].content }}")
    other = f"+calibration.mix.other.path={CALIBRATION}"
    assert added() == {}
    assert added(f"model.path={copy}") == {"date": "2024-07-26"}
    assert added(other) == {"order": "interleaved"}
    assert added(f"model.path={copy}", "calibration.apply_chat_template=false") == {"special_tokens": True}
    assert added("calibration.max_seq_length=1024") == {"counted_from": "rotating"}
    assert added("calibration.max_seq_length=1024", "calibration.histogram_tokens=null") == {}


def test_a_calibration_of_others_writes_nothing_outside_its_folder(make, tmp_path: Path) -> None:
    given = make(outputs="theirs")
    planted = given.parent / "planted"
    planted.write_text("#!/bin/sh")
    manifest = given / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["../planted"] = {"size": 9, "sha256": sha256_of(planted)}
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="planted.*is no file of that folder"):
        make(f"calibration.artifact={given}", outputs="ours")
    assert not list((tmp_path / "ours").rglob("planted"))
