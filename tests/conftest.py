"""What all tests share: a small model that is made here, a composed configuration, the folder of real data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support.machines import SERVER_CPU
from support.settings import compose as composed
from support.settings import settings_of

import pipeline.__main__  # noqa: F401  registers the resolver that conf/ uses
from pipeline.config import PROJECT_ROOT, Settings
from pipeline.demo import CHECKPOINT

# A busy machine is no counterexample.
hypothesis.settings.register_profile("pipeline", deadline=None)
hypothesis.settings.load_profile("pipeline")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public data sets that are not part of the project; a CI without them has lost them."""
    folder = Path(os.environ.get("PIPELINE_DATA_DIR", PROJECT_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"PIPELINE_DATA_DIR={folder} is not there")
        pytest.skip(f"PIPELINE_DATA_DIR={folder} is not there")
    return folder


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """The configuration as a plain dict, from overrides."""
    return composed


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """Validated settings, from overrides."""
    return settings_of


@pytest.fixture
def server_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner's machine is a server's CPU, without GPUs."""
    monkeypatch.setattr("pipeline.runner.probe", lambda device: SERVER_CPU)


@pytest.fixture
def broken_model(tmp_path: Path) -> Path:
    """A model folder that holds the demo's config and nothing else, for a test to break further."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(CHECKPOINT / "config.json", folder)
    return folder
