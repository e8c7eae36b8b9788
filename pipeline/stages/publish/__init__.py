"""`publish`: a folder with each checkpoint and a Hugging Face model card, ready for the hub, and its upload.

The card says what was measured with the figures of the report. Nothing is uploaded unless `publish.dry_run=false`.

* `card`: the card's metadata and text, from the report as data,
* `hub`: where it goes, and the upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.errors import PipelineError
    from pipeline.job import Job


def check(variants: Sequence[Settings]) -> None:
    """Refuses what could not be published, before any work.

    Raises:
        ConfigError: without a place for the checkpoints, or without a token, where they shall be uploaded; or where
            there is nothing but the BF16 checkpoint, which is published already.
    """
    from pipeline.stages.publish import hub

    hub.check(variants)


def make(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> dict[str, PipelineError]:
    """Writes, and uploads where asked, a folder for each variant that passed the gate.

    Returns:
        The variants that could not be published, with the reason.
    """
    from rich.markup import escape

    from pipeline.errors import NotApplicable, PipelineError
    from pipeline.stages.publish import hub
    from pipeline.stages.publish.card import write
    from pipeline.stages.report.build import build

    report = build(jobs, failures)
    failed: dict[str, PipelineError] = {}
    for job in jobs:
        say, name = job.progress.say, str(job.variant)
        if job.settings.is_baseline or name in failures:
            continue
        try:
            folder = write(job, report)
            say(f"  publish {name}: {escape(hub.send(folder, job.settings, job.progress))}")
        except NotApplicable as reason:
            say(f"  [yellow]n/a[/] {escape(str(reason))}")
        except PipelineError as error:
            failed[name] = error
    return failed
