"""Checkpoints that others quantized: linked and not copied, as the baseline is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.models.existing import CODE
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "a checkpoint that others quantized"
REQUIRES: tuple[str, ...] = ()
NOTE = ""
check = base.accept


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/`, a folder of links; code is the BF16 model's, which the user may have trusted."""
    assert job.existing is not None
    target = draft.folder / "checkpoint"
    target.mkdir()
    for path in [*job.existing.files(), *job.model.shape_folder.glob(CODE)]:
        (target / path.name).symlink_to(path.resolve())
