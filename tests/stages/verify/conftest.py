"""Real checkpoints of the demo model, each made once."""

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from pipeline.config import PROJECT_ROOT, Stage, validate
from pipeline.runner import Runner

NEEDED = ("calibration.num_samples=4", "calibration.max_seq_length=128")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint of the demo model by the name of its format."""
    outputs, made = tmp_path_factory.mktemp("checkpoints"), {}

    def make(quant: str, *overrides: str) -> Path:
        if (quant, *overrides) not in made:
            given = ["stage=quantize", f"quant={quant}", f"outputs={outputs}", *NEEDED, *overrides]
            with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base=None):
                settings = validate(OmegaConf.to_container(hydra.compose("config", given), resolve=True))  # type: ignore[arg-type]
            run = Runner([settings], given)
            assert run.execute() == 0
            made[quant, *overrides] = run.jobs[0].artifact(Stage.QUANTIZE).folder / "checkpoint"
        return made[quant, *overrides]

    return make
