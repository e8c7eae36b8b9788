"""`conf/publish`: where checkpoints go on the Hugging Face hub."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.base import Section


class PublishSettings(Section):
    """Where checkpoints go on the Hugging Face hub, and what their cards cannot know."""

    name: str = Field("hub", description="name of the choice")
    repo_id: str | None = Field(
        None, description="hub repository, e.g. me/{model}-{variant}; a dash stands for + and @ in a variant's name"
    )
    private: bool = Field(True, description="a repository that is made new is private")
    dry_run: bool = Field(True, description="write the folder and say what would be uploaded; false: upload it")
    base_model: str | None = Field(None, description="hub id of the BF16 checkpoint; null: model.hub_id")
    license: str | None = Field(
        None, description="the hub's name of the license; null: what the BF16 checkpoint's card says"
    )
