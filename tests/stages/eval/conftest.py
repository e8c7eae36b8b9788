"""A tokenizer, a toy server and a server of vLLM's that the tests of the evaluation share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny_tasks as tiny
from support.completions_server import CompletionsServer
from support.settings import settings_of

from pipeline.demo import CHECKPOINT
from pipeline.hardware.probe import probe
from pipeline.progress import Progress
from pipeline.serve.server import Server, Serving


def tiny_tokenizer() -> Any:
    """A tokenizer of 64 tokens: an unknown one, two special ones, and characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = "ABCDEFGH abcdefghijklmnopqrstuvwxyz0123456789\n.:?#+-=()_,!'"
    words = ["<unk>", "<|endoftext|>", "<|im_end|>", *characters]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words[:64])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_end|>"],
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a checkpoint as far as the evaluation's own process goes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny tasks of every kind."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(tokenizer: Any) -> Iterator[CompletionsServer]:
    toy = CompletionsServer(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    yield toy
    toy.close()


@pytest.fixture(scope="package")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo model, served as an evaluation serves it."""
    settings = settings_of("quant=bf16")
    serving = Serving(probe(settings.hardware.device), tmp_path_factory.mktemp("logs"), Progress())
    try:
        yield serving.serve(CHECKPOINT, settings, "bf16", prefix_caching=True)
    finally:
        serving.stop()
