"""Tokenizers in every library's files are read in the form of tokenizer.json, with offsets, or refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import tiny_tokenizers as tiny

from pipeline.errors import InputError
from pipeline.models.tokenizer import load_tokenizer

FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "SentencePiece, BPE": ("llama", tiny.sentencepiece),
    "SentencePiece, unigram": ("llama", partial(tiny.sentencepiece, kind="unigram")),
    "tiktoken": ("llama", tiny.tiktoken),
    "tiktoken, named as SentencePiece's": ("llama", partial(tiny.tiktoken, name="tokenizer.model")),
    "tekken": ("mistral", tiny.tekken),
}


def folder_of(path: Path, model_type: str, write: Callable[[Path], None]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    write(path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_librarys_file_is_read_with_offsets(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_of(tmp_path / "model", *FILES[name]))
    text = "The river rises in the plain.\n九点开门"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokenizer.decode(encoded.input_ids).strip() == text
    assert encoded.offset_mapping[-1][1] == len(text)


def test_a_tokenizer_of_its_own_code_is_read_where_it_is_trusted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "qwen3", tiny.with_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=True)
    ids = tokenizer("the river<|end|>", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "the river<|end|>"
    assert not tokenizer.is_fast
    assert ids[-1] == 256 + len(tiny.MERGES) + 3


def test_what_transformers_cannot_read_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "qwen3", partial(tiny.sentencepiece, name="spiece.model"))
    with pytest.raises(InputError, match=r"no tokenizer that transformers can read.*Put a tokenizer.json"):
        load_tokenizer(folder)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    """What transformers makes of Qwen's first files without their code."""
    folder = folder_of(tmp_path / "model", "qwen3", partial(tiny.tiktoken, name="qwen.tiktoken"))
    with pytest.raises(InputError, match="without words"):
        load_tokenizer(folder)
