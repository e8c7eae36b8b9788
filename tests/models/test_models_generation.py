"""Sampling parameters of generation_config.json: which a server gives requests, and which it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.generation import applied, named


def folder_of(path: Path, **content: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "generation_config.json").write_text(json.dumps(content))
    return path


def test_neutral_values_and_other_fields_are_not_named(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, eos_token_id=[1, 2], do_sample=True, temperature=0.6, top_p=1.0, top_k=20, repetition_penalty=1.05
    )
    assert named(folder) == {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize("content", ["[]", "no JSON", '{"temperature": null, "top_k": "20"}'])
def test_what_names_nothing_is_neutral(tmp_path: Path, content: str) -> None:
    assert named(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(content)
    assert named(tmp_path) == {}


def test_a_server_applies_the_file_that_its_arguments_say(tmp_path: Path) -> None:
    own = folder_of(tmp_path / "own", repetition_penalty=1.05)
    other = folder_of(tmp_path / "other", repetition_penalty=1.2)
    assert applied(["--seed", "0"], own) == {"repetition_penalty": 1.05}
    assert applied(["--generation-config", "vllm"], own) == {}
    assert applied(["--generation-config", "vllm", "--generation-config=auto"], own) == {"repetition_penalty": 1.05}
    assert applied(["--generation-config", str(other)], own) == {"repetition_penalty": 1.2}
    override = ["--generation-config", "vllm", "--override-generation-config", '{"temperature": 0.5, "top_p": 1.0}']
    assert applied(override, own) == {"temperature": 0.5}
