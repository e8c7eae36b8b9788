"""Runs one engine of the `quantize` stage on the demo model, without the stages around it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline.demo import CHECKPOINT


def made(engine: Any, settings: Any, folder: Path) -> Path:
    """The checkpoint that an engine's module makes for settings."""
    job = SimpleNamespace(
        settings=settings,
        model=SimpleNamespace(folder=CHECKPOINT),
        hardware=SimpleNamespace(device="cpu"),
        progress=SimpleNamespace(detail=lambda _: None),
        variant="tested",
        workspace=SimpleNamespace(root=folder),
    )
    engine.make(job, SimpleNamespace(folder=folder))
    return folder / "checkpoint"


def original() -> dict[str, torch.Tensor]:
    """The demo's own tensors."""
    return {name: tensor.float() for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()}


def error(rounded: torch.Tensor, weight: torch.Tensor) -> float:
    """The relative error of a weight, in the Frobenius norm."""
    return float((rounded - weight).norm() / weight.norm())
