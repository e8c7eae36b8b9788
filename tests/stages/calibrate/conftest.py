"""A job over the demo model, and conversations in a file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import Settings
from pipeline.job import Job
from pipeline.runner import Runner


@pytest.fixture
def job(settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Job]:
    """A job of `stage=calibrate quant=fp8_static`, from overrides."""

    def made(*overrides: str) -> Job:
        given = ("stage=calibrate", "quant=fp8_static", f"outputs={tmp_path / 'outputs'}", *overrides)
        return Runner([settings(*given)], list(given)).jobs[0]

    return made


@pytest.fixture
def conversations(tmp_path: Path) -> Callable[..., Path]:
    """A JSONL file of conversations with these user turns."""

    def written(*texts: str, name: str = "set.jsonl") -> Path:
        path = tmp_path / name
        rows = [{"prompt": text, "response": "Yes."} for text in texts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return written
