"""`bench`: vLLM's own load generator against a fresh server, by the protocol of `conf/bench/`.

* `plan`, `ladder`: the loads of a protocol; `protocol`: one after another, with warm-up and a second try,
* `prompts`: what is sent, checked before a server starts; `client`: vLLM's load generator,
* `attached`: what speaks against measuring a server that the user runs,
* `requests`, `steady`, `metrics`: the timings of each request, those without ramp and drain, and the figures of a load,
* `counters`, `monitor`, `guards`, `trends`: state of server and machine during a load, and checks of its validity,
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
from pipeline.models import generation
from pipeline.tasks.conversations import identity_of

SHARED = False
# Settings that change neither the loads nor their measurement.
NOT_IDENTITY = {"name", "dataset", "timeout_s", "blocks", "budget_minutes"}


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Return the required stages: a checkpoint that passed the gate; none for a server that the user runs."""
    return () if settings.serve.url else (Stage.QUANTIZE, Stage.VERIFY)


def identity(job: Job) -> Payload:
    """Return the identity: checkpoint, server, loads, machine, and the block unless it is the first.

    The number of blocks is left out, so that a block stays valid when more are requested.
    """
    settings = job.settings.bench
    random = settings.prompts == "random"
    source = job.reference if job.reference and job.reference.variant != job.variant else None
    return {
        **({} if job.settings.serve.url else {"quantize": job.artifact(Stage.QUANTIZE).key}),
        "serve": job.serving.identity(job.settings),
        "bench": settings.model_dump(exclude=NOT_IDENTITY),
        "dataset": None if random else identity_of(settings.dataset, "bench.dataset", job.digests),
        "hardware": job.hardware.model_dump(include={"device", "name", "cores"}),
        # The loads of a ladder derive from this benchmark; a block of its own variant follows from the same payload.
        **({"reference": source.artifact(Stage.BENCH).key} if settings.ladder and source else {}),
        **({"block": job.block} if job.block else {}),
        **({"part": job.part} if job.part else {}),
        **_decoding(job),
    }


def _decoding(job: Job) -> Payload:
    """Return what earlier releases did otherwise: they left a request what the generation config gave it.

    A greedy request is changed by penalties alone.
    """
    temperature = job.settings.bench.temperature
    if temperature is None or job.settings.serve.url:
        return {}
    named = generation.named(job.model.shape_folder).keys() - {"temperature"}
    changed = named & generation.PENALTIES.keys() if temperature == 0 else named
    return {"decoding": "neutral"} if changed else {}


def make(job: Job, draft: Draft) -> None:
    """Write the result of each repeat, and all figures into the manifest."""
    from pipeline.stages.bench.protocol import bench

    bench(job, draft)
