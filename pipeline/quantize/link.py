"""The baseline: the checkpoint as it is, linked and not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.quantize.checkpoint import describe
from pipeline.workspace import Draft

if TYPE_CHECKING:
    from pipeline.job import Job


def quantize(job: Job, draft: Draft) -> None:
    """Writes `checkpoint`, a link to the model's folder."""
    target = draft.folder / "checkpoint"
    target.symlink_to(job.model.folder.resolve(), target_is_directory=True)
    draft.results = describe(target)
