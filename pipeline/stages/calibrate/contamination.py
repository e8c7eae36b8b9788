"""Overlap of the calibration set with an evaluation: ranges fitted to the questions would bias the scores.

An item overlaps when some run of n words stands in both (n = 13 as in Brown et al., "Language models are few-shot
learners", 2020, appendix C). Words are compared without case and punctuation; a Chinese character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import InputError, PipelineError
from pipeline.results.calibration import Overlap

if TYPE_CHECKING:
    from pipeline.job import Job

_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return _WORD.findall(text.lower())


def runs(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Return every run of n words of a text."""
    found = words(text)
    return (tuple(found[index : index + n]) for index in range(len(found) - n + 1))


def overlapping(calibration: Iterable[str], items: Sequence[str], n: int) -> list[int]:
    """Return the indices of the items that share a run of n words with the calibration texts."""
    known = {run for text in calibration for run in runs(text, n)}
    return [index for index, item in enumerate(items) if any(run in known for run in runs(item, n))]


def report(job: Job, texts: Sequence[str]) -> list[Overlap]:
    """Return the number of overlapping items of each configured evaluation, or the reason why it is unknown."""
    from pipeline.tasks.lm_eval_tasks import load

    n, scoring = job.settings.calibration.overlap_ngram, job.settings.eval
    found: list[Overlap] = []
    for label, wanted in scoring.tasks.items():
        job.progress.detail(f"comparing with {label}")
        try:
            asked = load(label, wanted, scoring.model_copy(update={"limit": None}))
        except PipelineError as error:
            found.append(Overlap(evaluation=label, task=wanted.task, reason=error.problem))
            continue
        items = [str(task.doc_to_text(doc)) for task in asked.tasks.values() for doc in task.eval_docs]
        shared = overlapping(texts, items, n)
        found.append(
            Overlap(
                evaluation=label,
                task=wanted.task,
                items=len(items),
                overlapping=len(shared),
                ngram=n,
                share=len(shared) / len(items),
                example=items[shared[0]] if shared else None,
                too_short=sum(len(words(item)) < n for item in items),
            )
        )
    return found


def refuse_contamination(job: Job, entries: Sequence[Overlap]) -> None:
    """Stop if an evaluation shares more items than `calibration.max_overlap` allows.

    Raises:
        InputError: naming the evaluation.
    """
    settings = job.settings.calibration
    if settings.allow_contamination:
        return
    for entry in entries:
        if (entry.share or 0) > settings.max_overlap:
            raise InputError(
                f"calibration={settings.name} shares runs of {entry.ngram} words with {entry.overlapping} of the "
                f"{entry.items} items of {entry.evaluation}, more than calibration.max_overlap="
                f"{settings.max_overlap:g} allows.",
                "Calibrate with other conversations, or set calibration.allow_contamination=true.",
            )
