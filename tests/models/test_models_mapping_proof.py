"""A mapping that makes another model is found on the loaded model; a right one moves no answer, and nothing is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import families

from pipeline.hardware.probe import probe
from pipeline.models.architecture import read_config
from pipeline.models.loading import load_model
from pipeline.models.mapping_proof import EXPLAINED, moved_by

IDS = torch.randint(0, 128, (1, 48), generator=torch.Generator().manual_seed(3))


def loaded(family: str, folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A family's model with linear experts, and its config.json."""
    families.write(family, folder)
    return load_model(folder, probe("cpu"), dtype=dtype, linear_experts=True), read_config(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma3", "cohere2", "qwen3_moe"])
def test_a_right_mapping_moves_no_answer_and_leaves_the_weights(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, config = loaded(family, tmp_path / "model", dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert moved_by(model, config, "awq", IDS) < EXPLAINED / 10
    after = model.state_dict()
    assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor)] == []


@pytest.mark.parametrize(
    ("family", "algorithm"),
    [("mixtral", "awq"), ("qwen2_moe", "awq"), ("gemma3", "smoothquant"), ("gemma4", "awq")],
)
def test_a_reader_that_is_forgotten_moves_the_answers(family: str, algorithm: str, tmp_path: Path) -> None:
    model, config = loaded(family, tmp_path / "model", torch.bfloat16)
    assert moved_by(model, config, algorithm, IDS) > 3 * EXPLAINED
