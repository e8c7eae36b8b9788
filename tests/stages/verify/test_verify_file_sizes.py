"""Sizes that are predicted without reading a tensor, against files that are written and counts by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.demo import CHECKPOINT
from pipeline.formats.layouts import Stored
from pipeline.stages.verify import file_sizes


@pytest.mark.parametrize("length", range(1, 20))
def test_the_header_of_a_file_is_padded_to_eight_bytes(length: int, tmp_path: Path) -> None:
    name, other = "n" * length, "o" * length
    tensors = {name: torch.zeros(3, 5), other: torch.zeros(10, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    stored: Stored = {name: ("F32", (3, 5)), other: ("BF16", (10,))}
    assert file_sizes._header(stored, {name: 60, other: 20}) + 80 == (tmp_path / "x.safetensors").stat().st_size


def test_scales_of_the_kv_cache_are_a_file_of_their_own(settings, tmp_path: Path) -> None:
    quant = settings("quant=bf16").quant
    without, with_scales = (file_sizes.predicted(CHECKPOINT, quant, given) for given in (False, True))
    assert sum(without.values()) == (CHECKPOINT / "model.safetensors").stat().st_size
    names = [f"model.layers.{n}.self_attn.{x}_scale" for n in range(4) for x in "kv"]
    save_file({name: torch.tensor(1.0) for name in names}, tmp_path / "kv.safetensors", metadata={"format": "pt"})
    added = {name: size - without.get(name, 0) for name, size in with_scales.items() if size != without.get(name)}
    assert added == dict.fromkeys(names, 4) | {
        file_sizes.HEADER: (tmp_path / "kv.safetensors").stat().st_size - 4 * len(names)
    }


@pytest.mark.parametrize(
    ("quant", "wider"),
    [
        ("fp8_dynamic", True),
        # A group's scales are BF16 wherever they were computed.
        ("w4a16", False),
        ("bf16", False),
    ],
)
def test_scales_of_channels_are_wider_where_they_were_computed_in_float32(quant: str, wider: bool, settings) -> None:
    own = settings(f"quant={quant}").quant
    narrow, wide = (file_sizes.predicted(CHECKPOINT, own, False, in_float32=given) for given in (False, True))
    other = {name for name in narrow if narrow[name] != wide[name]} - {file_sizes.HEADER}
    scales = {name for name in narrow if name.endswith("_scale")}
    assert other == (scales if wider else set())
    assert all(wide[name] == 2 * narrow[name] for name in other)


def tokenizer(folder: Path, **content: object) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_a_vocabulary_is_its_tokens_merges_and_template(tmp_path: Path) -> None:
    assert file_sizes._vocabulary(tmp_path) == 0
    model = {"vocab": {"a": 0, "abcd": 1, "é": 2}, "merges": ["b c", ["d", "é"]]}
    tokenizer(tmp_path, model=model, added_tokens=[{"content": "<s>"}, {"content": "a"}])
    # Lengths of 8 bytes and types of 4 for a, abcd, é (two bytes) and <s>; lengths of 8 for the merges of 3 and 4.
    expected = 4 * (8 + 4) + 1 + 4 + 2 + 3 + 2 * 8 + 3 + 4
    assert file_sizes._vocabulary(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("x" * 11)
    assert file_sizes._vocabulary(tmp_path) == expected + 11
    assert file_sizes._vocabulary(tokenizer(tmp_path, model={"merges": None})) == 11
    assert file_sizes._vocabulary(tokenizer(tmp_path)) == 11


def test_a_gguf_header_counts_every_tensor(tmp_path: Path) -> None:
    tensors: Stored = {"model.norm.weight": ("F32", (33,)), "model.embed_tokens.weight": ("Q8_0", (32, 64))}
    sizes = {"model.norm.weight": 132, "model.embed_tokens.weight": 2176}
    # Names of 17 and 25 characters count half; 132 bytes are padded by 28, 2,176 are a multiple of 32.
    expected = (8 + 8 + 4 + 8 + 4 + 8 + 28) + (8 + 12 + 4 + 16 + 4 + 8)
    assert file_sizes._gguf_header(tmp_path, tensors, sizes) == expected
    (tmp_path / "chat_template.jinja").write_text("x" * 11)
    tokenizer(tmp_path)
    assert file_sizes._gguf_header(tmp_path, tensors, sizes) == expected + 11


def test_tensors_of_another_size_are_told_with_both(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1000), "c": torch.zeros(3, dtype=torch.bfloat16), "d": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    expected = {"a": 8000, "b": 4, "d": 8, file_sizes.HEADER: 99}
    assert file_sizes.differences(expected, tmp_path) == [
        "a: 4,000 bytes instead of 8,000",
        "b: 0 bytes instead of 4",
        "c: 6 bytes instead of 0",
    ]
    assert file_sizes.differences({"a": 4000, "c": 6, "d": 8}, tmp_path) == []
