"""`eval`: lm-eval's tasks and the divergence from BF16, against the served checkpoint; every sample is kept.

* `harness`: an evaluation from start to end; below it, in `pipeline.tasks`: the tasks, from the hub or
  from files, and the sandbox in which programs run,
* `model`, `options`: the served checkpoint as a model of lm-eval's; `endpoint`, `journal`: its client, and the
  stored answers of an interrupted evaluation,
* `divergence`, `layers`: log-probabilities of held-out text, and the output error of each quantized layer.
"""

from __future__ import annotations

from pipeline.artifacts.keys import Digests, Payload
from pipeline.artifacts.workspace import Draft
from pipeline.config import DivergenceSettings, Settings, Stage
from pipeline.job import Job
from pipeline.models import generation
from pipeline.tasks.chat_templates import date_printed, may_think
from pipeline.tasks.conversations import identity_of
from pipeline.tasks.lm_eval_tasks import task_files

SHARED = False
# Settings that say how and where the questions are asked; the answers are the same.
# The divergence has an identity of its own, by what is in its file.
NOT_IDENTITY = {
    "name",
    "include_path",
    "data_dir",
    "num_concurrent",
    "prefix_caching",
    "unsafe_code",
    "budget_minutes",
    "divergence",
}
# Settings that change no answer as they are by default, so that earlier scores keep their keys.
DEFAULTS = {"share": 1.0, "max_reply_toks": None}
# Penalties of a generation config that earlier releases left greedy requests.
LEFT = {"presence_penalty", "frequency_penalty"}


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Return the required stages: a checkpoint that passed the gate."""
    return (Stage.QUANTIZE, Stage.VERIFY)


def identity(job: Job) -> Payload:
    """Return the identity: checkpoint, server, tasks, the held-out text and lm-eval's version."""
    from pipeline.artifacts.provenance import versions

    settings = job.settings.eval
    left_out = NOT_IDENTITY | {name for name, value in DEFAULTS.items() if getattr(settings, name) == value}
    return {
        "quantize": job.artifact(Stage.QUANTIZE).key,
        "serve": job.serving.identity(job.settings),
        "eval": settings.model_dump(exclude=left_out),
        "divergence": _divergence(settings.divergence, job.digests),
        "task_files": task_files(settings, job.digests),
        "lm_eval": versions().get("lm-eval"),
        # Earlier releases drew other few-shot examples for a sample than for all items.
        **({"examples": "of the full run"} if settings.limit is not None or settings.share < 1 else {}),
        **({"template_date": date} if (date := _template_date(job)) else {}),
        # Earlier releases scored what a model thought as its answer.
        **({"thoughts": "left out"} if _may_think(job) else {}),
        **({"decoding": "neutral"} if generation.named(job.model.shape_folder).keys() & LEFT else {}),
        **({"part": job.part} if job.part else {}),
    }


def _template_date(job: Job) -> str | None:
    """Return the fixed day that the chat template prints in prompts or held-out texts; None if it prints none."""
    settings = job.settings.eval
    return date_printed(job.model.shape_folder) if settings.chat_template or settings.divergence else None


def _may_think(job: Job) -> bool:
    settings = job.settings.eval
    return settings.chat_template and may_think(job.model.shape_folder, settings.enable_thinking)


def _divergence(settings: DivergenceSettings | None, digests: Digests) -> Payload | None:
    """Return the hash of the held-out text's content, and the amount used."""
    if settings is None:
        return None
    dataset = identity_of(settings.dataset, "eval.divergence.dataset", digests)
    return {**settings.model_dump(exclude={"dataset"}), "dataset": dataset}


def make(job: Job, draft: Draft) -> None:
    """Write lm-eval's results and samples, the log-probabilities of the text, and their figures into the manifest."""
    from pipeline.stages.eval.harness import evaluate

    evaluate(job, draft)
