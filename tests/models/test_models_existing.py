"""A checkpoint of others is described by its own files, and is one of the model that it is compared with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from support.settings import variants_of
from support.tiny_sources import write_source

from pipeline.artifacts.keys import Digests
from pipeline.config import ExistingSettings, Settings
from pipeline.errors import ConfigError, InputError
from pipeline.hardware.probe import probe
from pipeline.models.existing import ExistingCheckpoint, resolve
from pipeline.models.source import ModelSource
from pipeline.serve.support import of_settings

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
TOKENIZER = {
    "model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 3, "content": "<end>"}],
}
Resolved = tuple[Settings, ExistingCheckpoint]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_source(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


@pytest.fixture
def theirs(model: Path, tmp_path: Path) -> Path:
    """A checkpoint in AWQ's format by its config; whose weights are nobody's."""
    folder = Path(shutil.copytree(model, tmp_path / "theirs"))
    change(folder, quantization_config=AWQ)
    return folder


@pytest.fixture
def ask(model: Path, tmp_path: Path) -> Callable[..., Resolved]:
    """What is known of a variant beside the model."""

    def asked(variant: str, *overrides: str) -> Resolved:
        variants = variants_of("add_bf16=false", f"variants=['{variant}']", f"model.path={model}", *overrides)
        source = ModelSource(variants[0].model, tmp_path / "cache", Digests(tmp_path / "digests.json"))
        ((settings, checkpoint),) = resolve(variants, source)
        assert checkpoint is not None
        return settings, checkpoint

    return asked


def change(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def test_a_folder_is_described_by_its_config(theirs: Path, ask: Callable[..., Resolved]) -> None:
    settings, _ = ask(f"folder:{theirs}")
    quant = settings.quant
    assert isinstance(quant, ExistingSettings)
    assert (quant.scheme, quant.group_size, quant.algorithm, quant.stored_as) == ("W4A16_ASYM", 64, "awq", "awq")
    assert quant.title == "theirs (W4A16_ASYM, groups of 64)"
    assert not settings.needs_calibration


def test_what_serves_it_follows_from_its_scheme(theirs: Path, ask: Callable[..., Resolved]) -> None:
    change(theirs, quantization_config=AWQ | {"group_size": 256})
    settings, _ = ask(f"folder:{theirs}@triton")
    from pipeline.hardware.gpus import gpu_of

    gpu = gpu_of("h100_sxm")
    assert gpu is not None
    # Only AWQ's own first kernel does groups of 256 of AWQ's own format.
    assert of_settings(settings, gpu).support == "no"
    with pytest.raises(ConfigError, match="cutlass.*W4A16_ASYM"):
        ask(f"folder:{theirs}@cutlass")


def test_what_is_in_no_table_is_left_to_vllm(theirs: Path, ask: Callable[..., Resolved]) -> None:
    change(theirs, quantization_config={"quant_method": "hqq"})
    settings, _ = ask(f"folder:{theirs}")
    assert (settings.quant.scheme, settings.quant.title) == (None, "theirs (hqq)")
    said = of_settings(settings, probe("cpu"))
    assert (said.support, said.by) == ("native", "what vLLM chooses")


def test_its_identity_is_its_content(theirs: Path, ask: Callable[..., Resolved]) -> None:
    before = ask(f"folder:{theirs}")[1].identity()
    assert before == ask(f"folder:{theirs}")[1].identity()
    (theirs / "generation_config.json").write_text("{}")
    assert ask(f"folder:{theirs}")[1].identity() != before


def test_code_is_not_taken_from_those_who_quantized(theirs: Path, ask: Callable[..., Resolved]) -> None:
    (theirs / "modeling_other.py").write_text("raise SystemExit")
    assert not [path for path in ask(f"folder:{theirs}")[1].files() if path.suffix == ".py"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, r"architecture \['LlamaForCausalLM'\], not \['Qwen3ForCausalLM'\]"),
        ({"hidden_size": 512}, "hidden_size=512, not 256"),
        ({"vocab_size": 128}, "vocab_size=128, not 64"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3, not 2"),
        ({"auto_map": {"AutoModelForCausalLM": "other--code.Model"}}, "auto_map"),
    ],
)
def test_another_models_checkpoint_is_refused_with_both_names(
    config: dict[str, Any], said: str, theirs: Path, model: Path, ask: Callable[..., Resolved]
) -> None:
    change(theirs, **config)
    with pytest.raises(InputError, match=said) as error:
        ask(f"folder:{theirs}")
    assert f"folder:{theirs}" in error.value.problem
    assert f"model.path={model}" in error.value.problem


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ({"model": {"vocab": {"b": 0, "a": 1, "ab": 2}, "merges": []}}, "the token 'a' as number 1, not number 0"),
        ({**TOKENIZER, "added_tokens": []}, "the token '<end>' as none, not number 3"),
        ({**TOKENIZER, "model": {**TOKENIZER["model"], "merges": []}}, "other merges"),
    ],
)
def test_other_tokens_are_refused(
    tokenizer: dict[str, Any], said: str, theirs: Path, ask: Callable[..., Resolved]
) -> None:
    (theirs / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=said):
        ask(f"folder:{theirs}")


def test_the_same_tokens_may_be_written_otherwise(theirs: Path, ask: Callable[..., Resolved]) -> None:
    written = {**TOKENIZER, "model": {**TOKENIZER["model"], "merges": ["a b"]}}
    (theirs / "tokenizer.json").write_text(json.dumps(written, indent=2))
    ask(f"folder:{theirs}")


def test_what_is_not_quantized_is_a_model(model: Path, ask: Callable[..., Resolved]) -> None:
    with pytest.raises(InputError, match="is not quantized") as error:
        ask(f"folder:{model}")
    assert "model.path" in error.value.remedy


def test_a_folder_that_is_not_there_and_random_weights_are_refused(theirs: Path, ask: Callable[..., Resolved]) -> None:
    with pytest.raises(InputError, match="there is no folder /nowhere"):
        ask("folder:/nowhere")
    with pytest.raises(ConfigError, match="random"):
        ask(f"folder:{theirs}", "model.weights=random")


def test_a_file_that_is_cut_off_is_named_before_anything_is_made(theirs: Path, ask: Callable[..., Resolved]) -> None:
    path = theirs / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        ask(f"folder:{theirs}")[1].identity()


def test_llama_cpps_files_are_not_applicable(tmp_path: Path, ask: Callable[..., Resolved]) -> None:
    folder = tmp_path / "blocks"
    folder.mkdir()
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    settings, _ = ask(f"folder:{folder}")
    said = of_settings(settings, probe("cpu"))
    assert said.support == "no"
    assert "GGUF" in said.reason


def test_a_checkpoint_with_a_cache_of_its_own_is_named_with_it(theirs: Path, ask: Callable[..., Resolved]) -> None:
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    numbers = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    groups = {"group_0": {"targets": ["Linear"], "weights": numbers, "input_activations": numbers}}
    own = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    change(theirs, quantization_config={**own, "kv_cache_scheme": cache})
    with pytest.raises(ConfigError, match="FP8 KV cache") as error:
        ask(f"folder:{theirs}")
    assert f"folder:{theirs}+fp8_e4m3" in error.value.remedy
    settings, _ = ask(f"folder:{theirs}+fp8_e4m3")
    assert not settings.needs_calibration
    change(theirs, quantization_config=own)
    settings, _ = ask(f"folder:{theirs}+fp8_e4m3")
    assert "none are added" in of_settings(settings, probe("cpu")).reason


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A repository in a folder, whose main branch is at one commit."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache / COMMIT
        self.revisions: list[str | None] = []

    def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
        return [path.name for path in self.repository.iterdir()]

    def snapshot_download(self, _: str, *, revision: str | None, **__: Any) -> str:
        self.revisions.append(revision)
        shutil.copytree(self.repository, self.cache, dirs_exist_ok=True)
        return str(self.cache)


def test_the_hubs_is_pinned_at_the_commit_that_was_read(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Resolved]
) -> None:
    hub = Hub(theirs, tmp_path / "snapshots")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    settings, checkpoint = ask("hub:some/model-AWQ")
    assert checkpoint.identity() == {"hub_id": "some/model-AWQ", "revision": COMMIT}
    assert settings.quant.title == "some/model-AWQ (W4A16_ASYM, groups of 64)"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in checkpoint.files()}
    assert hub.revisions == [None, COMMIT]


def test_a_hub_that_does_not_answer_is_told_with_the_way_of_a_local_copy(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Resolved]
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="^variants=hub:some/model-AWQ: some/model-AWQ could not be fetched") as error:
        ask("hub:some/model-AWQ")
    assert "variants=folder:<the copy>" in error.value.remedy


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True},
        }
    },
    "ignore": ["lm_head"],
}


@pytest.mark.parametrize(
    "wrong",
    [
        COMPRESSED | {"config_groups": ["Linear"]},
        COMPRESSED | {"config_groups": {"group_0": ["Linear"]}},
        COMPRESSED | {"config_groups": {"group_0": {"weights": {"num_bits": "many"}}}},
        COMPRESSED | {"config_groups": {"group_0": {"targets": ["re:("], "weights": {"num_bits": 4}}}},
        COMPRESSED | {"ignore": [["lm_head"]]},
        COMPRESSED | {"sparsity_config": "dense"},
        {"quant_method": "compressed-tensors"},
        AWQ | {"group_size": "64"},
        {"quant_method": "gptq", "bits": [4], "group_size": 64},
        {"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": 5},
        {"quant_method": "fp8", "weight_block_size": 128},
    ],
)
def test_settings_of_a_form_that_no_library_writes_are_refused(
    wrong: dict[str, Any], theirs: Path, ask: Callable[..., Resolved]
) -> None:
    change(theirs, quantization_config=COMPRESSED)
    assert ask(f"folder:{theirs}")[0].quant.scheme == "W4A16"
    change(theirs, quantization_config=wrong)
    with pytest.raises(InputError, match="quantization_config"):
        ask(f"folder:{theirs}")
