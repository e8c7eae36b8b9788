"""`calibrate`: conversations -> tokens -> forward passes -> sketches -> ranges.

One artifact for a model, shared by every variant that needs data. In the order of the data:

* `conversations`: sampling from one set or a mix, the token sequences; below it, in `pipeline.tasks`: the reader of
  rows, and the chat template,
* `card`, `contamination`: provenance of the set, and text that it shares with an evaluation,
* `models.forward`: the passes over the BF16 model, whole or layer by layer,
* `observers`, `histograms`: the observed tensors, and streaming statistics of them; `coverage`: the tokens of experts,
* `clipping`: ranges from sketches (min-max, moving average, percentile, MSE, entropy),
* `convergence`, `summary`: convergence with the number of samples, and the readable summary,
* `artifact`: the files, written and read.

What is observed does not depend on the technique, so choosing another one re-runs nothing here.
"""

from __future__ import annotations

from pipeline.artifacts.keys import Payload, key_of
from pipeline.artifacts.workspace import Draft
from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.models.architecture import has_experts
from pipeline.results.calibration import CHECKED
from pipeline.tasks.chat_templates import date_printed
from pipeline.tasks.conversations import identity_of

SHARED = True
# Settings that determine the tokens and the statistics; the others are read later or change nothing.
OBSERVED = (
    "num_samples",
    "min_seq_length",
    "max_seq_length",
    "drop_long",
    "apply_chat_template",
    "enable_thinking",
    "seed",
    "averaging_constant",
    "histogram_tokens",
)


def needs(settings: Settings) -> tuple[Stage, ...]:
    """Require no stage; only the model is read."""
    return ()


def identity(job: Job) -> Payload:
    """Return the identity: model, conversations, sampling, observation, and evaluations checked for overlap."""
    settings = job.settings.calibration
    if settings.artifact is not None:
        from pipeline.stages.calibrate.reuse import identity_of_given

        return identity_of_given(job, settings.artifact)
    return {**observed(job), CHECKED: _checked(job)}


def observed(job: Job) -> Payload:
    """Return the identity of the sketches: without the evaluations that the set is compared with."""
    settings = job.settings.calibration
    sets = {
        name: identity_of(each, f"calibration.{name}", job.digests) | ({"weight": each.weight} if settings.mix else {})
        for name, each in settings.sets.items()
    }
    return {
        "model": job.model.identity(),
        "sets": sets,
        **settings.model_dump(include=set(OBSERVED)),
        **_rules(job),
    }


def _rules(job: Job) -> Payload:
    """Return what earlier releases did otherwise, where it changes the tokens, their order or the counts."""
    settings = job.settings.calibration
    counted = settings.histogram_tokens
    date = date_printed(job.model.shape_folder) if settings.apply_chat_template else None
    return {
        **({"date": date} if date else {}),
        **({"order": "interleaved"} if settings.mix else {}),
        **({} if settings.apply_chat_template else {"special_tokens": True}),
        **({"experts": "counted"} if has_experts(job.model.config) else {}),
        **({"counted_from": "rotating"} if counted is not None and counted < settings.max_seq_length else {}),
    }


def _checked(job: Job) -> Payload:
    """Return the evaluations, the limits, and whether exceeding them is allowed."""
    calibration, scoring = job.settings.calibration, job.settings.eval
    from pipeline.tasks.lm_eval_tasks import task_files

    return {
        "tasks": {label: task.task for label, task in scoring.tasks.items()},
        "task_files": key_of(task_files(scoring, job.digests)),
        **calibration.model_dump(include={"overlap_ngram", "max_overlap", "allow_contamination"}),
    }


def make(job: Job, draft: Draft) -> None:
    """Write tokens, sketches, ranges, the card and the summary; or take over a finished calibration.

    Raises:
        InputError: on a set that is too small or contaminated; on activations that are not finite; on a calibration
            of another model.
    """
    if job.settings.calibration.artifact is not None:
        from pipeline.stages.calibrate.reuse import take_over

        take_over(job, draft, job.settings.calibration.artifact)
    else:
        from pipeline.stages.calibrate.run import calibrate

        calibrate(job, draft)
