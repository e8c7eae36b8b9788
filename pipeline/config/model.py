"""`conf/model`: the BF16 checkpoint that every variant is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.file_names import file_name


class ModelSettings(SettingsGroup):
    """The BF16 checkpoint that every variant is made from."""

    name: str = Field(description="folder name under outputs/; null: that of the folder or repository")
    path: Path | None = Field(None, description="local folder with config.json; overrides hub_id")
    hub_id: str | None = Field(None, description="Hugging Face hub id")
    revision: str | None = Field(None, description="pinned hub commit")
    weights: Literal["trained", "random"] = Field(
        "trained", description="random: a checkpoint with the model's shapes and random weights, to measure speed"
    )
    seed: int = Field(0, description="seed of random weights")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")
    shape: dict[str, int] = Field(
        {}, description="values that config.json must have, without which the checkpoint is not the model of that name"
    )

    @property
    def source(self) -> str:
        """The setting that names the checkpoint, with its value."""
        return f"model.path={self.path}" if self.path is not None else f"model.hub_id={self.hub_id}"

    @model_validator(mode="after")
    def _has_source(self) -> ModelSettings:
        if self.path is None and self.hub_id is None:
            raise ValueError("set model.path (a local folder) or model.hub_id")
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_by_source(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("name") is not None:
            return given
        path, hub_id = given.get("path"), str(given.get("hub_id") or "")
        source = hub_id.rpartition("/")[2] if path is None else Path(path).expanduser().resolve().name
        return {**given, "name": file_name(source)}

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name != file_name(name):
            raise ValueError(f"{name} cannot be a folder's name everywhere; {file_name(name)} can")
        return name
