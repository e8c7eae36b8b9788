"""`conf/model`: the BF16 checkpoint that every variant is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from pipeline.config.base import SettingsGroup


class ModelSettings(SettingsGroup):
    """The BF16 checkpoint that every variant is made from."""

    name: str = Field(description="folder name under outputs/")
    path: Path | None = Field(None, description="local folder with config.json; overrides hub_id")
    hub_id: str | None = Field(None, description="Hugging Face hub id")
    revision: str | None = Field(None, description="pinned hub commit")
    weights: Literal["trained", "random"] = Field(
        "trained", description="random: a checkpoint with the model's shapes and random weights, to measure speed"
    )
    seed: int = Field(0, description="seed of random weights")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")

    @property
    def source(self) -> str:
        """The setting that names the checkpoint, with its value."""
        return f"model.path={self.path}" if self.path is not None else f"model.hub_id={self.hub_id}"

    @model_validator(mode="after")
    def _has_source(self) -> ModelSettings:
        if self.path is None and self.hub_id is None:
            raise ValueError("set model.path (a local folder) or model.hub_id")
        return self
