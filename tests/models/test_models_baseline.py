"""The BF16 checkpoint of a source that is not one as it lies: other types, other weights beside, old buffers."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.tiny_sources import CONFIG, tensors_of, write_header, write_source

from pipeline.artifacts.keys import Digests
from pipeline.config import ModelSettings, Settings
from pipeline.errors import InputError
from pipeline.models import baseline
from pipeline.models.headers import headers, weight_bytes
from pipeline.models.safetensors import check_safetensors, safetensors_files
from pipeline.models.source import ModelSource
from pipeline.stages.verify import file_sizes

WHOLE = tensors_of(CONFIG)


def source_of(folder: Path) -> ModelSource:
    model = ModelSettings.model_validate({"name": "m", "path": folder})
    return ModelSource(model, folder.parent / "cache", Digests(folder.parent / "digests.json"))


def numbers(dtype: torch.dtype, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random weights of the tiny shape; some between two numbers of BF16, one beyond float16's smallest."""
    torch.manual_seed(0)
    found = {name: torch.randn(shape) for name, (_, shape) in WHOLE.items()}
    found["model.norm.weight"][:3] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 6e-8])
    return {**{name: tensor.to(dtype) for name, tensor in found.items()}, **more}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_other_types_are_cast_once_and_said(dtype: str, tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model", dtype=None, torch_dtype=dtype)
    tensors = numbers(getattr(torch, dtype))
    save_file(tensors, folder / "model.safetensors")
    source = source_of(folder)
    assert source.identity()["cast_from"] == dtype
    made = source.folder
    assert f"stored in {dtype}, cast to BF16" in source.note
    assert source.cast_from == dtype
    cast = load_file(made / "model.safetensors")
    assert {name: each.dtype for name, each in cast.items()} == dict.fromkeys(tensors, torch.bfloat16)
    assert all(torch.equal(cast[name], tensors[name].to(torch.bfloat16)) for name in tensors)
    config = json.loads((made / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    # The files that travel, and the size that the gate expects of bf16.
    assert (made / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    expected = file_sizes.predicted(made, settings("quant=bf16").quant, kv_scales=False)
    assert weight_bytes(made) == pytest.approx(sum(expected.values()), rel=0.001)
    # A second run finds it.
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert source_of(folder).folder == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_a_bf16_source_is_read_where_it_lies(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    source = source_of(folder)
    assert source.folder == folder
    assert not source.note
    assert set(source.identity()) == {"files"}


def test_a_few_tensors_in_float32_stay_so(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model", {**WHOLE, "model.layers.0.mlp.gate.bias": ("F32", (8,))})
    assert source_of(folder).folder == folder


def test_a_config_that_names_float16_for_bf16_weights_is_corrected(tmp_path: Path) -> None:
    # vLLM serves in the type that the config names.
    folder = write_source(tmp_path / "model", dtype="float16", text_config={**CONFIG, "dtype": "float16"})
    source = source_of(folder)
    config = json.loads((source.folder / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    assert (source.folder / "model.safetensors").is_symlink()
    assert "config.json names float16" in source.note
    assert source.identity()["cast_from"] == "float16"


@pytest.mark.parametrize(
    "stray", ["consolidated.safetensors", "model-00001-of-00002.safetensors", "original/consolidated.safetensors"]
)
def test_other_weights_are_no_part_of_the_checkpoint(
    stray: str, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    alone, both = write_source(tmp_path / "alone"), write_source(tmp_path / "both")
    (both / stray).parent.mkdir(exist_ok=True)
    write_header(both / stray, {"layers.0.attention.wk.weight": ("BF16", (256, 256))})
    source = source_of(both)
    assert source.identity() == source_of(alone).identity()
    assert headers(source.folder) == headers(alone)
    assert weight_bytes(source.folder) == weight_bytes(alone)
    assert [path.name for path in source.folder.rglob("*.safetensors")] == ["model.safetensors"]
    assert stray in source.note


def test_stale_shards_are_left_out_by_the_index(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(WHOLE, "model.safetensors")})
    )
    write_header(folder / "model-00003-of-00007.safetensors", {"stale": ("BF16", (4,))})
    assert [path.name for path in safetensors_files(folder)] == ["model.safetensors"]
    assert "stale" not in headers(folder)


def test_one_file_of_another_name_is_found_by_transformers(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert [path.name for path in source_of(folder).folder.glob("*.safetensors")] == ["model.safetensors"]


def test_shards_without_an_index_get_one(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    names = list(WHOLE)
    for number, part in enumerate((names[:9], names[9:])):
        write_header(folder / f"part-{number}.safetensors", {name: WHOLE[name] for name in part})
    made = source_of(folder).folder
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(WHOLE)
    assert headers(made).keys() == WHOLE.keys()


def test_two_sets_of_weights_without_an_index_are_refused(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    write_header(folder / "b.safetensors", WHOLE)
    with pytest.raises(InputError, match=r"in a.safetensors and in b.safetensors.*Fetch the index"):
        _ = source_of(folder).folder


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (32,)),
        ("gpt_neox.layers.0.attention.bias", "BOOL", (1, 1, 64, 64)),
        ("gpt_neox.layers.0.attention.masked_bias", "BF16", ()),
        ("transformer.h.0.attn.bias", "U8", (1, 1, 64, 64)),
    ],
)
def test_buffers_of_older_releases_are_left_out(
    name: str, dtype: str, shape: tuple[int, ...], tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    folder = write_source(tmp_path / "model", {**WHOLE, name: (dtype, shape)})
    source = source_of(folder)
    assert headers(source.folder).keys() == WHOLE.keys()
    check_safetensors(source.folder / "model.safetensors")
    assert f"1 buffer(s) left out ({name})" in source.note
    expected = file_sizes.predicted(source.folder, settings("quant=bf16").quant, kv_scales=False)
    assert weight_bytes(source.folder) == pytest.approx(sum(expected.values()), rel=0.001)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_attn.bias", "layers.0.attention.bias"])
def test_a_bias_is_no_buffer(name: str) -> None:
    assert not baseline.is_buffer(name, {"dtype": "BF16", "shape": [64], "data_offsets": [0, 128]})


def test_values_survive_where_buffers_go(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    tensors = numbers(torch.bfloat16, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(32)})
    save_file(tensors, folder / "model.safetensors")
    with safe_open(source_of(folder).folder / "model.safetensors", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(name), tensors[name]) for name in WHOLE)


def test_a_full_disk_is_said_before_the_cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_source(tmp_path / "model", tensors_of(CONFIG, "F32"))

    class Full:
        free = 1000

    monkeypatch.setattr(baseline.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(InputError, match=r"no room for .*stored in float32.*outputs="):
        _ = source_of(folder).folder


def test_every_file_that_belongs_to_a_checkpoint_travels(tmp_path: Path) -> None:
    from pipeline.models.safetensors import copy_companions

    travelling = (
        "generation_config.json", "modeling_mine.py", "preprocessor_config.json", "video_preprocessor_config.json",
        "processor_config.json", "tekken.json", "qwen.tiktoken", "spiece.model", "LICENSE", "NOTICE.txt",
    )  # fmt: skip
    folder = write_source(tmp_path / "model")
    bare: Any = source_of(folder).identity()["files"]
    for name in travelling:
        (folder / name).write_bytes(b"{ }\r\n")
    for name in ("README.md", "training_args.bin", "optimizer.pt"):
        (folder / name).write_text("")
    assert source_of(folder).identity()["files"].keys() - bare.keys() == set(travelling)
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_companions(folder, copy)
    assert all((copy / name).read_bytes() == b"{ }\r\n" for name in travelling)


def test_a_cast_that_fails_or_was_killed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft is as large as the model, and each run would leave another one on a full disk."""
    folder = write_source(tmp_path / "model", tensors_of(CONFIG, "F32"))
    write, full = baseline._write, [True]

    def failing(*given: Any, **how: Any) -> None:
        write(*given, **how)
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(baseline, "_write", failing)
    with pytest.raises(OSError, match="No space"):
        _ = source_of(folder).folder
    assert not list((tmp_path / "cache").glob(".*.tmp")) and not list((tmp_path / "cache").glob("m-*"))
    full.clear()
    name = source_of(folder).folder.name
    killed = tmp_path / "cache" / f".{name}.4242.tmp"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(bytes(1000))
    shutil.rmtree(tmp_path / "cache" / name)
    assert (source_of(folder).folder / "model.safetensors").is_file()
    assert not killed.exists()


def test_the_model_of_an_adapters_config_is_not_loaded(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    made = source_of(folder).folder
    assert made != folder and not (made / "adapter_config.json").exists()
    assert (made / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
