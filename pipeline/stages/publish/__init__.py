"""`publish`: a folder per checkpoint with a Hugging Face model card, and its upload to the hub.

The card has the figures of the report. Nothing is uploaded unless `publish.dry_run=false`.

* `card`: the card's metadata and text, from the report as data,
* `hub`: repository names and the upload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.errors import PipelineError
    from pipeline.job import Job


def check(variants: Sequence[Settings]) -> None:
    """Check that the variants can be published, before any work starts.

    Raises:
        ConfigError: if the repository or the token for an upload is missing, or if the only variant is the BF16
            checkpoint, which is published already.
    """
    from pipeline.stages.publish import hub

    hub.check(variants)


def destinations(variants: Iterable[Settings]) -> Iterator[tuple[str, str]]:
    """Yield the variants that would be published, and the repository of each."""
    from pipeline.stages.publish import hub

    for settings in {str(each.variant): each for each in variants}.values():
        if not settings.is_baseline:
            upload = " (a folder only: publish.dry_run=true)" if settings.publish.dry_run else ""
            yield str(settings.variant), f"{hub.repository(settings)}{upload}"


def make(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> dict[str, PipelineError]:
    """Write a folder for each variant that passed verification, and upload it if requested.

    Returns:
        the variants that could not be published, with the error.
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
            say(escape(f"  publish {name}: {hub.send(folder, job.settings, job.progress)}"))
        except NotApplicable as reason:
            say(f"  [yellow]n/a[/] {escape(str(reason))}")
        except PipelineError as error:
            failed[name] = error
    return failed
