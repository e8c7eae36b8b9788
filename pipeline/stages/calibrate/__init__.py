"""`calibrate`: conversations -> tokens -> forward passes -> sketches -> ranges.

One artifact for a model, shared by every variant that needs data. In the order of the data:

* `conversations`: sampling from one set or a mix, the chat template, the token sequences,
* `card`, `contamination`: what is on record about the set, and whether it shares text with an evaluation,
* `models.forward`: the passes over the BF16 model, whole or layer by layer,
* `observers`, `histograms`: where values are watched, and the streaming statistics that remain of them,
* `clipping`: ranges from sketches (min-max, moving average, percentile, MSE, entropy),
* `convergence`, `summary`: whether the samples were enough, and all of it for people,
* `artifact`: the files, written and read.

What is observed does not depend on the technique, so choosing another one re-runs nothing here.
"""

from __future__ import annotations

from pipeline.artifacts.keys import Payload, key_of
from pipeline.artifacts.workspace import Draft
from pipeline.config import Settings, Stage
from pipeline.job import Job
from pipeline.results.calibration import CHECKED
from pipeline.tasks.conversations import identity_of

SHARED = True
# What decides which tokens are shown and what is kept of the activations; the rest is read later, or changes nothing.
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
    """Reads the model alone."""
    return ()


def identity(job: Job) -> Payload:
    """The model, the conversations, how they are sampled and observed, and which evaluations they are held against."""
    settings = job.settings.calibration
    if settings.artifact is not None:
        from pipeline.stages.calibrate.reuse import identity_of_given

        return identity_of_given(job, settings.artifact)
    return {**observed(job), CHECKED: _checked(job)}


def observed(job: Job) -> Payload:
    """What the sketches depend on: the identity without the evaluations that the set is held against."""
    settings = job.settings.calibration
    sets = {
        name: identity_of(each, f"calibration.{name}", job.digests) | ({"weight": each.weight} if settings.mix else {})
        for name, each in settings.sets.items()
    }
    return {"model": job.model.identity(), "sets": sets, **settings.model_dump(include=set(OBSERVED))}


def _checked(job: Job) -> Payload:
    """The evaluations, the limits that were set, and whether exceeding them is allowed."""
    calibration, scoring = job.settings.calibration, job.settings.eval
    from pipeline.tasks.lm_eval_tasks import task_files

    return {
        "tasks": {label: task.task for label, task in scoring.tasks.items()},
        "task_files": key_of(task_files(scoring, job.digests)),
        **calibration.model_dump(include={"overlap_ngram", "max_overlap", "allow_contamination"}),
    }


def make(job: Job, draft: Draft) -> None:
    """Writes tokens, sketches, ranges, the card and the summary; or takes over a finished calibration.

    Raises:
        InputError: on a set that is too small, contaminated, or fails the chat template; on activations that are
            not finite; on a calibration of another model.
    """
    if job.settings.calibration.artifact is not None:
        from pipeline.stages.calibrate.reuse import take_over

        take_over(job, draft, job.settings.calibration.artifact)
    else:
        from pipeline.stages.calibrate.run import calibrate

        calibrate(job, draft)
