"""A server that the user runs has one checkpoint, so it is measured as one variant until it is restarted."""

from __future__ import annotations

from pipeline.config import Stage
from pipeline.errors import InputError
from pipeline.job import Job
from pipeline.serve.external import told


def check(job: Job) -> None:
    """Refuse a server that was measured as another variant since its start, if it tells its start.

    Raises:
        InputError: naming that variant.
    """
    if job.settings.serve.url is None:
        return
    found = told(job.settings.serve)
    for _, manifest in job.workspace.manifests(job.settings.model.name, Stage.BENCH.value):
        is_same = found.is_told_apart and manifest.payload.get("serve") == found.model_dump()
        if is_same and manifest.status == "ok" and manifest.variant != str(job.variant):
            raise InputError(
                f"serve.url={found.url}: this server, {found.instance}, was measured as {manifest.variant}, and not as "
                f"{job.variant}; it has one checkpoint.",
                f"Name the one that it has, or restart it with that of {job.variant}.",
            )
