"""Each task of a variant against BF16's: accuracy, the difference on the same items, and the verdict on the loss.

Answers that reached the token limit are compared as well: a format that makes a model run on has changed its
behaviour, whatever the scores say. They are paired by item where the samples have them (McNemar), else the two counts
are compared (R. Fisher's exact test), corrected by Holm for all comparisons of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import Field

from pipeline.compare.stats.accuracy import Accuracy, PairedDifference, Scores, accuracy, fisher, mcnemar, pair
from pipeline.compare.stats.accuracy import paired_difference as paired
from pipeline.compare.stats.intervals import holm
from pipeline.compare.stats.noninferiority import (
    LossVerdict,
    MeanLoss,
    TaskMargin,
    blindness,
    judge_loss,
    judge_mean,
    mean_margin,
    p_beyond,
    task_margin,
)
from pipeline.compare.stats.sample_size import LEVEL
from pipeline.results.base import Frozen, Missing
from pipeline.results.records import Record, TaskScores

Margins = float | Mapping[str, float] | None
Key = TypeVar("Key")


class CutAnswers(Frozen):
    """Answers that reached the token limit, of `n`, against BF16's `baseline`; `p_holm` is corrected for the table."""

    here: int
    baseline: int
    n: int
    p_value: float
    p_holm: float = 1.0
    method: Literal["McNemar", "Fisher"]

    @property
    def is_more(self) -> bool:
        """True if more answers than BF16's are shown to reach the limit."""
        return self.here > self.baseline and self.p_holm <= LEVEL


class TaskCell(Frozen):
    """A task's accuracy with its difference from the baseline on the same items."""

    task: str
    metric: str
    accuracy: Accuracy
    change: PairedDifference | Missing
    # The figure under each filter that the task has, where it has several: gsm8k's strict-match and flexible-extract.
    filters: dict[str, float] = Field({})
    # The accuracy of guessing, zero for generated text.
    chance: float = 0.0
    cut: CutAnswers | None = None
    # Set once the table is complete: it is corrected for all comparisons of the table.
    loss: LossVerdict | Missing = Missing(reason="the baseline itself")

    @property
    def is_loss(self) -> bool:
        """True if a loss of more than the margin is shown."""
        return isinstance(self.loss, LossVerdict) and self.loss.kind == "worse"

    @property
    def is_lower(self) -> bool:
        """True if a loss is shown, but neither that it is within the margin nor that it is beyond."""
        return self._differs(-1) and isinstance(self.loss, LossVerdict) and self.loss.kind == "cannot tell"

    @property
    def is_gain(self) -> bool:
        """True if a higher accuracy is shown."""
        return self._differs(1)

    def _differs(self, sign: int) -> bool:
        change, loss = self.change, self.loss
        if not isinstance(change, PairedDifference) or not isinstance(loss, LossVerdict):
            return False
        return change.difference * sign > 0 and loss.p_holm <= LEVEL and change.is_clear


Cells = dict[str, TaskCell | Missing]


def margins_of(records: Sequence[Record], tasks: Sequence[str], wanted: Margins) -> dict[str, TaskMargin]:
    """Return the margin of each task: as wanted for all or by task, else by the size of its set."""
    found = {}
    for task in tasks:
        results = [r.tasks[task] for r in records if not isinstance(r.tasks, Missing) and task in r.tasks]
        sizes = [result.available for result in results if result.available is not None]
        points = wanted if isinstance(wanted, float | int) else (wanted or {}).get(task)
        found[task] = task_margin(points, min(sizes, default=None))
    return found


def task_cell(record: Record, baseline: Record | None, task: str) -> TaskCell | Missing:
    """Return one task of one variant, without the verdict on its loss."""
    if isinstance(record.tasks, Missing):
        return record.tasks
    result = record.tasks.get(task)
    if result is None:
        return Missing(reason=f"{task} was not scored")
    scores = None if isinstance(result.scores, Missing) else result.scores
    figure = accuracy(result.value, result.n, result.asked, scores)
    if isinstance(figure, Missing):
        return figure
    reference = _reference(record, baseline, task, result)
    if not isinstance(reference, Missing):
        reference = on_same_items(result, reference)
    return TaskCell(
        task=result.task,
        metric=result.metric,
        accuracy=figure,
        change=reference if isinstance(reference, Missing) else _change(result, reference),
        filters=result.filters if len(result.filters) > 1 else {},
        chance=result.chance,
        cut=None if isinstance(reference, Missing) else _cut(result, reference),
    )


def on_same_items(result: TaskScores, reference: TaskScores) -> TaskScores:
    """Return the reference with the items of a result that was asked fewer; as it is if the result lacks some asked.

    A study with a budget asks a variant a part of what it asks BF16. Items that were lost on the way are no part: those
    that remain are no sample.
    """
    is_part = result.n == result.asked < reference.asked
    if not is_part or isinstance(result.scores, Missing) or isinstance(reference.scores, Missing):
        return reference
    wanted = Counter(item for item, _ in result.scores)
    part: dict[str, object] = {"scores": _first_of(reference.scores, wanted)}
    if reference.cut is not None:
        cut = _first_of(reference.cut, wanted)
        part |= {"cut": cut, "unfinished": round(sum(each for _, each in cut))}
    return reference.model_copy(update=part)


def _first_of(scores: Scores, wanted: Counter[str]) -> Scores:
    """Return as many scores of each item as are wanted."""
    left, found = wanted.copy(), []
    for item, score in scores:
        if left[item] > 0:
            left[item] -= 1
            found.append((item, score))
    return tuple(found)


def judged(rows: Sequence[tuple[str, Cells]], baseline: Cells, margins: Mapping[str, TaskMargin]) -> list[Cells]:
    """Return the rows' cells with their verdicts, p-values corrected for all differences of the table.

    Args:
        rows: name and cells of each row.
        baseline: the cells of BF16.
        margins: of each task.
    """
    changes = {
        (name, task): cell.change
        for name, cells in rows
        for task, cell in cells.items()
        if isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference)
    }
    differ = holm({key: change.p_value for key, change in changes.items()})
    beyond = holm({key: p_beyond(change, margins[key[1]].margin) for key, change in changes.items()})
    ran_on = holm(
        {
            (name, task): cell.cut.p_value
            for name, cells in rows
            for task, cell in cells.items()
            if isinstance(cell, TaskCell) and cell.cut is not None
        }
    )

    def judge(name: str, task: str, cell: TaskCell | Missing) -> TaskCell | Missing:
        if isinstance(cell, Missing):
            return cell
        updates: dict[str, object] = {}
        if cell.cut is not None:
            updates["cut"] = cell.cut.model_copy(update={"p_holm": ran_on[name, task]})
        if isinstance(cell.change, Missing):
            return cell.model_copy(update={**updates, "loss": cell.change})
        margin = margins[task]
        loss = judge_loss(
            cell.change,
            differ[name, task],
            margin.margin,
            p_worse=beyond[name, task],
            comparisons=len(changes),
            available=margin.available,
            blind=_blind(baseline.get(task), margin.margin),
        )
        return cell.model_copy(update={**updates, "loss": loss})

    return [{task: judge(name, task, cell) for task, cell in cells.items()} for name, cells in rows]


def mean_loss(cells: Cells, margins: Mapping[str, TaskMargin]) -> MeanLoss | Missing:
    """Return the verdict on the mean of all tasks."""
    changes = [c.change for c in cells.values() if isinstance(c, TaskCell) and isinstance(c.change, PairedDifference)]
    if len(changes) < len(cells):
        return Missing(reason="not every task has a difference from BF16")
    found = judge_mean(changes, mean_margin([margins[task] for task in cells]))
    return Missing(reason="a difference has no interval") if found is None else found


def _blind(baseline: TaskCell | Missing | None, margin: float) -> str:
    if not isinstance(baseline, TaskCell):
        return ""
    figure = baseline.accuracy
    return blindness(figure.value, figure.interval.low if figure.interval else figure.value, baseline.chance, margin)


def _reference(record: Record, baseline: Record | None, task: str, result: TaskScores) -> TaskScores | Missing:
    """Return BF16's result to compare with, or why there is none."""
    if record.is_baseline:
        return Missing(reason="the baseline itself")
    if baseline is None:
        return Missing(reason="no BF16 baseline among the results")
    if isinstance(baseline.tasks, Missing):
        return Missing(reason=f"BF16 has no scores: {baseline.tasks.reason}")
    reference = baseline.tasks.get(task)
    if reference is None:
        return Missing(reason=f"BF16 has no {task}")
    if (reference.task, reference.metric) != (result.task, result.metric):
        return Missing(reason=f"BF16 was scored by {reference.task}/{reference.metric}")
    return reference


def _change(result: TaskScores, reference: TaskScores) -> PairedDifference | Missing:
    if isinstance(result.scores, Missing):
        return result.scores
    if isinstance(reference.scores, Missing):
        return Missing(reason=f"BF16: {reference.scores.reason}")
    return paired(result.scores, reference.scores, bootstrap=True)


def _cut(result: TaskScores, reference: TaskScores) -> CutAnswers | None:
    """Compare the answers that reached the token limit; None if none did, or the task generates no text."""
    if not result.unfinished and not reference.unfinished:
        return None
    here, there = result.unfinished, reference.unfinished
    matched = None if result.cut is None or reference.cut is None else pair(result.cut, reference.cut)
    if matched is not None and not isinstance(matched, Missing):
        more, fewer = sum(a > b for a, b in matched), sum(a < b for a, b in matched)
        return CutAnswers(here=here, baseline=there, n=result.n, p_value=mcnemar(more, fewer), method="McNemar")
    p_value = fisher(here, result.n, there, reference.n)
    return CutAnswers(here=here, baseline=there, n=result.n, p_value=p_value, method="Fisher")
