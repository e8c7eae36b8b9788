"""Baseline: the unchanged checkpoint, linked and not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "the BF16 checkpoint"
REQUIRES: tuple[str, ...] = ()
NOTE = ""
check = base.accept


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint`, a link to the model's folder; or a folder of links, if files are added to it."""
    source, target = job.model.folder.resolve(), draft.folder / "checkpoint"
    if not job.settings.kv_cache.needs_data:
        target.symlink_to(source, target_is_directory=True)
        return
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file():
            (target / path.name).symlink_to(path)
