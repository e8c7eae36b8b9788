"""What all tests share: a small model that is made here, a composed configuration, the folder of real data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import hypothesis
import pytest
from omegaconf import OmegaConf

import pipeline.__main__  # noqa: F401  registers the resolver that conf/ uses
from pipeline.config import PROJECT_ROOT, Settings, validate

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


@pytest.fixture
def compose() -> Callable[..., dict[str, Any]]:
    """The configuration as a plain dict, from overrides."""

    def composed(*overrides: str) -> dict[str, Any]:
        with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base=None):
            config = hydra.compose("config", list(overrides))
            return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]

    return composed


@pytest.fixture
def settings(compose: Callable[..., dict[str, Any]]) -> Callable[..., Settings]:
    """Validated settings, from overrides."""
    return lambda *overrides: validate(compose(*overrides))


@pytest.fixture
def broken_model(tmp_path: Path) -> Path:
    """A model folder that holds the demo's config and nothing else, for a test to break further."""
    folder = tmp_path / "model"
    folder.mkdir()
    source = PROJECT_ROOT / "pipeline" / "demo" / "checkpoint" / "config.json"
    (folder / "config.json").write_text(json.dumps(json.loads(source.read_text())))
    return folder
