"""Runs of the demo model that share one folder of outputs, so that what they share is made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.settings import settings_of

from pipeline.runner import Runner

NEEDED = ("calibration.num_samples=6", "calibration.max_seq_length=96", "quant.candidates=[W4A16,W8A8]")


@pytest.fixture(scope="session")
def mixed_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of outputs."""
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="session")
def runner(mixed_outputs: Path) -> Callable[..., Runner]:
    """A run of `stage=quantize quant=mixed` that is not executed, from further overrides."""

    def made(*overrides: str) -> Runner:
        given = ["stage=quantize", "quant=mixed", f"outputs={mixed_outputs}", *NEEDED, *overrides]
        return Runner([settings_of(*given)], given)

    return made
