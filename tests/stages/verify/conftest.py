"""Real checkpoints of the demo model, each made once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.settings import settings_of

from pipeline.job import Job
from pipeline.runner import Runner

NEEDED = ("calibration.num_samples=4", "calibration.max_seq_length=128")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """Makes a checkpoint of the demo model by its overrides, and returns its job.

    A mutation run names the folder, so that they are made once for all mutants.
    """
    outputs = Path(os.environ.get("PIPELINE_TEST_CHECKPOINTS") or tmp_path_factory.mktemp("checkpoints"))
    jobs: dict[tuple[str, ...], Job] = {}

    def make(*overrides: str) -> Job:
        if overrides not in jobs:
            given = ["stage=quantize", f"outputs={outputs}", *NEEDED, *overrides]
            run = Runner([settings_of(*given)], given)
            assert run.execute() == 0
            jobs[overrides] = run.jobs[0]
        return jobs[overrides]

    return make


@pytest.fixture(scope="session")
def checkpoint(made: Callable[..., Job]) -> Callable[..., Path]:
    """Makes a checkpoint of the demo model by the name of its format, and returns its folder."""
    return lambda quant, *overrides: made(f"quant={quant}", *overrides).checkpoint
