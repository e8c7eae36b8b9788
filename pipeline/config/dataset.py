"""`conf/dataset`: conversations, local or on the hub, that other groups refer to."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    Field,
    model_validator,
)

from pipeline.config.base import SettingsGroup


class DatasetSettings(SettingsGroup):
    """A file of conversations: local, or one file of a hub data set."""

    path: Path | None = Field(
        None,
        description="local file of conversations: JSON, JSON lines, Parquet, CSV or text, also .gz; overrides hub_id",
    )
    hub_id: str | None = Field(None, description="Hugging Face hub id of a data set")
    hub_file: str | None = Field(None, description="file inside the hub data set")
    revision: str | None = Field(None, description="pinned hub commit")

    @model_validator(mode="after")
    def _has_source(self) -> DatasetSettings:
        if self.path is None and (self.hub_id is None or not self._names_data()):
            raise ValueError(self._missing())
        return self

    def _names_data(self) -> bool:
        return self.hub_file is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and hub_file"
