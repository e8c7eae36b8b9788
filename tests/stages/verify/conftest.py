"""Real checkpoints of the demo model, each made once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.settings import settings_of

from pipeline.config import Stage
from pipeline.runner import Runner

NEEDED = ("calibration.num_samples=4", "calibration.max_seq_length=128")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint of the demo model by the name of its format.

    A mutation run names the folder, so that they are made once for all mutants.
    """
    outputs, made = Path(os.environ.get("PIPELINE_TEST_CHECKPOINTS") or tmp_path_factory.mktemp("checkpoints")), {}

    def make(quant: str, *overrides: str) -> Path:
        if (quant, *overrides) not in made:
            given = ["stage=quantize", f"quant={quant}", f"outputs={outputs}", *NEEDED, *overrides]
            run = Runner([settings_of(*given)], given)
            assert run.execute() == 0
            made[quant, *overrides] = run.jobs[0].artifact(Stage.QUANTIZE).folder / "checkpoint"
        return made[quant, *overrides]

    return make
