"""`bench`: vLLM's own load generator against a fresh server, by the protocol of `conf/bench/`.

* `plan`: the loads of a protocol; `protocol`: one after another, with warm-up and a second try,
* `prompts`: what is sent, checked before a server starts; `client`: vLLM's load generator,
* `requests`, `metrics`: what each request did, and the figures of a load,
* `counters`, `monitor`, `guards`: what server and machine went through, and whether the load measured what it says,
* `goodput`: the highest rate that meets an SLO; `memory`, `memory_bandwidth`: what the server holds and what the
  machine can do.

The results in the manifest are a `pipeline.results.bench.BenchResult`. Beside them lie
`loads/<load>/repeat-<i>.json`, vLLM's summary, and `.npz` with a row for each request.
"""

from __future__ import annotations

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.workspace import Draft
from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.tasks.conversations import identity_of

SHARED = False
# What changes neither the loads nor what is measured of them.
NOT_IDENTITY = {"name", "dataset", "timeout_s"}


def needs(settings: Settings) -> tuple[Stage, ...]:
    """A checkpoint that passed the gate; none for a server that runs already."""
    return () if settings.serve.url else (Stage.QUANTIZE, Stage.VERIFY)


def identity(job: Job) -> Payload:
    """The checkpoint, the server, the loads and the machine."""
    settings = job.settings.bench
    random = settings.prompts == "random"
    return {
        **({} if job.settings.serve.url else {"quantize": job.artifact(Stage.QUANTIZE).key}),
        "serve": job.serving.identity(job.settings),
        "bench": settings.model_dump(exclude=NOT_IDENTITY),
        "dataset": None if random else identity_of(settings.dataset, "bench.dataset", job.digests),
        "hardware": job.hardware.model_dump(include={"device", "name", "cores"}),
    }


def make(job: Job, draft: Draft) -> None:
    """Writes the result of each repeat, and all figures into the manifest."""
    from pipeline.stages.bench.protocol import bench

    bench(job, draft)
