"""`conf/publish`: publishing checkpoints on the Hugging Face hub."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.base import SettingsGroup


class PublishSettings(SettingsGroup):
    """The repositories on the Hugging Face hub, and the fields of model cards that no artifact records."""

    name: str = Field("hub", description="name of the choice")
    repo_id: str | None = Field(
        None, description="hub repository, e.g. me/{model}-{variant}; + and @ in a variant's name become dashes"
    )
    private: bool = Field(True, description="create new repositories as private")
    dry_run: bool = Field(True, description="write the folder and print what would be uploaded; false: upload it")
    base_model: str | None = Field(None, description="hub id of the BF16 checkpoint; null: model.hub_id")
    license: str | None = Field(
        None, description="license identifier of the hub; null: the one in the BF16 checkpoint's card"
    )
