"""The figures of a variant in two runs: how each is read, and how its change between the runs is estimated.

Items: a stored report has the score of each item (`results.item_scores`), so a task is compared on the same items,
like a variant with BF16 in a run: McNemar's exact test, and the verdict on a loss of `noninferiority`. All tasks of a
variant are compared together as well, since a defect rarely affects one task alone: under the hypothesis the items that
only one run answers correctly are a fair coin in each task, so their sum over tasks has McNemar's test, too. Scores of
an earlier release have no items: shares are compared as independent ones, which detects far less, by R. Newcombe's
hybrid score interval (Statist. Med. 17, 1998, method 10), which takes the two distances from each figure to the ends of
its own interval:

    d - sqrt((p1 - l1)^2 + (u2 - p2)^2)  to  d + sqrt((u1 - p1)^2 + (p2 - l2)^2)

KL divergences are compared by Student's t on the differences of the conversations, else as independent ones.
Throughput and latencies are compared repeat by repeat, with the variation between sessions (`stats.sessions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ndtr, stdtr, stdtrit

from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.accuracy import PairedDifference, Z, paired_difference
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.noninferiority import MARGIN, LossVerdict, judge_loss
from pipeline.compare.stats.sessions import session_changes
from pipeline.results.base import Frozen, Missing
from pipeline.results.item_scores import ItemScores
from pipeline.results.metrics import HEADLINE, Direction

# The column of all tasks together.
ALL_TASKS = "all_tasks"
INDEPENDENT = "compared as independent samples, which detects less: {} has no {} to pair"
Answers = dict[str, dict[str, ItemScores]]


class RunName(Frozen):
    """The identification of a run: model, machine, date and load; `weights` is empty where their hash is not known."""

    name: str
    model: str
    machine: str
    measured: str
    load: str
    weights: str = ""


class Snapshot(Frozen):
    """The stored data of one run, by variant; `settings` of the whole run are under an empty name.

    `answers` has the items' scores of each task, `devices` those measured on, if known.
    """

    run: RunName
    comparison: Comparison
    settings: dict[str, dict[str, str]] = Field({})
    versions: dict[str, str] = Field({})
    answers: Answers = Field({})
    devices: dict[str, tuple[str, ...]] = Field({})


class Figure(Frozen):
    """One result of one run."""

    value: float
    interval: Interval | None


class Delta(NamedTuple):
    """A change and its interval, or the reason why there is none.

    `p_value` is two-sided, None if nothing was sampled. `same` and `no_worse`: a change, or a worsening, that matters
    is ruled out. `limit` says what is not ruled out if the change is undecided.
    """

    change: float | None
    interval: Interval | None
    reason: str = ""
    p_value: float | None = None
    same: bool = False
    no_worse: bool = False
    limit: str = ""


class Column(NamedTuple):
    """One figure of a row, with the functions that read it and compare the variants of two runs.

    `compare` gets the cells of the last and of the previous run by variant.
    """

    name: str
    title: str
    unit: str
    better: Direction
    family: Literal["speed", "quality"]
    needs_machine: bool
    cell: Callable[[Snapshot, Row], Any]
    figure: Callable[[Any], Figure]
    compare: Callable[[Mapping[str, tuple[Any, Any]]], dict[str, Delta]]


class _Scored(NamedTuple):
    """A task's cell with the scores of its items, if they are stored."""

    run: str
    cell: TaskCell
    answers: ItemScores | None


def columns(runs: Sequence[Snapshot], tolerance: float) -> list[Column]:
    """Return the figures that are compared, within a tolerance in percent."""
    tasks = dict.fromkeys(task for run in runs for task in run.comparison.tasks)

    def each(compare: Callable[[Any, Any], Delta]) -> Callable[[Mapping[str, tuple[Any, Any]]], dict[str, Delta]]:
        return lambda cells: {name: compare(now, then) for name, (now, then) in cells.items()}

    def speed(name: str, title: str, unit: str, better: Direction) -> Column:
        compare = partial(_speed_changes, better, tolerance)
        return Column(name, title, unit, better, "speed", True, partial(_speed_cell, name), _speed, compare)

    def quality(
        name: str, title: str, unit: str, better: Direction, cell: Any, figure: Any, compare: Callable[..., Delta]
    ) -> Column:
        return Column(name, title, unit, better, "quality", False, cell, figure, each(compare))

    margins = _margins(runs[-1].comparison)
    together = partial(_together_change, min(margins.values(), default=MARGIN))
    return [
        *(speed(metric.name, metric.title, metric.unit, metric.better) for metric in HEADLINE),
        quality(SIZE, "Checkpoint", "bytes", "lower", _size_cell, _size, partial(_size_change, tolerance)),
        *(
            quality(
                *(task, task, "%", "higher", partial(_task_cell, task), _accuracy),
                partial(_accuracy_change, margins.get(task, MARGIN)),
            )
            for task in tasks
        ),
        quality(ALL_TASKS, "All tasks", "%", "higher", partial(_together_cell, runs[-2:]), _together, together),
        quality(DIVERGENCE, "KL from BF16", "nats/token", "lower", _kl_cell, _kl, partial(_kl_change, tolerance)),
    ]


def _margins(comparison: Comparison) -> dict[str, float]:
    """Return the accepted loss on each task, a share, at which the run's own verdicts are given."""
    return {
        task: cell.loss.margin
        for row in comparison.rows
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(cell.loss, LossVerdict)
    }


def difference(ours: Figure, theirs: Figure) -> Interval | None:
    """Return Newcombe's interval of the difference of two independent figures."""
    if ours.interval is None or theirs.interval is None:
        return None
    change = ours.value - theirs.value
    below = math.hypot(ours.value - ours.interval.low, theirs.interval.high - theirs.value)
    above = math.hypot(ours.interval.high - ours.value, theirs.value - theirs.interval.low)
    return Interval(low=change - below, high=change + above)


def _within(interval: Interval, tolerance: float) -> bool:
    return -tolerance <= interval.low and interval.high <= tolerance


def _no_worse(interval: Interval, tolerance: float, better: Direction) -> bool:
    return interval.low >= -tolerance if better == "higher" else interval.high <= tolerance


def _speed_cell(metric: str, _: Snapshot, row: Row) -> SpeedCell | Missing:
    return row.speed.get(metric, Missing(reason="not measured"))


def _speed(cell: SpeedCell) -> Figure:
    return Figure(value=cell.measured.mean, interval=cell.measured.interval)


def _speed_changes(
    better: Direction, tolerance: float, cells: Mapping[str, tuple[SpeedCell, SpeedCell]]
) -> dict[str, Delta]:
    pairs = {name: (now.measured.values, then.measured.values) for name, (now, then) in cells.items()}
    deltas = {}
    for name, found in session_changes(pairs, tolerance).items():
        if isinstance(found, Missing) or found.interval is None:
            percent = None if isinstance(found, Missing) else found.percent
            deltas[name] = Delta(percent, None, found.reason)
            continue
        beyond = found.interval.low > tolerance or found.interval.high < -tolerance
        limit = "two sessions may differ by as much" if beyond else f"not shown to be within {tolerance:g} %"
        deltas[name] = Delta(
            found.percent,
            found.interval,
            p_value=found.p_value,
            same=_within(found.interval, tolerance),
            no_worse=_no_worse(found.interval, tolerance, better),
            limit=limit,
        )
    return deltas


def _size_cell(_: Snapshot, row: Row) -> SizeCell | Missing:
    return row.size


def _size(cell: SizeCell) -> Figure:
    return Figure(value=float(cell.bytes), interval=None)


def _size_change(tolerance: float, now: SizeCell, then: SizeCell) -> Delta:
    """Bytes are counted, not sampled."""
    percent = 100 * (now.bytes / then.bytes - 1)
    return Delta(percent, Interval(low=percent, high=percent), same=abs(percent) <= tolerance)


def _task_cell(task: str, run: Snapshot, row: Row) -> _Scored | Missing:
    cell = row.tasks.get(task, Missing(reason=f"{task} was not scored"))
    return cell if isinstance(cell, Missing) else _Scored(run.run.name, cell, run.answers.get(row.name, {}).get(task))


def _accuracy(scored: _Scored) -> Figure:
    around = scored.cell.accuracy.interval
    return Figure(
        value=100 * scored.cell.accuracy.value,
        interval=None if around is None else Interval(low=100 * around.low, high=100 * around.high),
    )


def _accuracy_change(margin: float, now: _Scored, then: _Scored) -> Delta:
    ours, theirs = now.cell, then.cell
    if (theirs.task, theirs.metric, theirs.accuracy.asked) != (ours.task, ours.metric, ours.accuracy.asked):
        return Delta(None, None, "scored on other items")
    if now.answers is None or then.answers is None:
        without = then if then.answers is None else now
        return _independent_accuracy(margin, now, then, INDEPENDENT.format(without.run, "answers"))
    if now.answers.items != then.answers.items:
        return Delta(None, None, "scored on other items")
    return _paired_change(margin, now.answers.values(), then.answers.values())


def _independent_accuracy(margin: float, now: _Scored, then: _Scored, reason: str) -> Delta:
    found = _independent(_accuracy(now), _accuracy(then), reason)
    if found.interval is None:
        return found
    ruled_out = found.interval.low > -100 * margin
    return found._replace(same=ruled_out, no_worse=ruled_out, limit=_margin(margin))


def _paired_change(margin: float, now: NDArray[np.float64], then: NDArray[np.float64]) -> Delta:
    """Compare the same items; answers that are all the same are no change, however few."""
    if not len(now):
        return Delta(None, None, "no item was scored")
    found = _paired(now, then)
    if isinstance(found, Missing) or found.interval is None:
        return Delta(None, None, found.reason if isinstance(found, Missing) else "a single item has no interval")
    no_worse = np.array_equal(now, then) or judge_loss(found, found.p_value, margin).kind == "no worse"
    interval = Interval(low=100 * found.interval.low, high=100 * found.interval.high)
    return Delta(
        100 * found.difference,
        interval,
        f"{found.gained} gained, {found.lost} lost" if found.gained or found.lost else "",
        p_value=found.p_value,
        same=no_worse,
        no_worse=no_worse,
        limit=_margin(margin),
    )


def _paired(now: NDArray[np.float64], then: NDArray[np.float64]) -> PairedDifference | Missing:
    names = [str(index) for index in range(len(now))]
    ours, theirs = (list(zip(names, scores.tolist(), strict=True)) for scores in (now, then))
    return paired_difference(ours, theirs)


def _margin(margin: float) -> str:
    return f"a loss of {100 * margin:g} point{'' if margin == 0.01 else 's'} is not ruled out"


def _together_cell(runs: Sequence[Snapshot], run: Snapshot, row: Row) -> dict[str, ItemScores] | Missing:
    """Return the answers of all tasks whose items are stored and the same in the last two runs; two tasks at least."""
    known = [each.answers.get(row.name, {}) for each in runs]
    tasks = [
        task
        for task, scores in known[-1].items()
        if scores.kind == "bits"
        and all(task in each and (each[task].items, each[task].kind) == (scores.items, "bits") for each in known)
    ]
    found = {task: scores for task, scores in run.answers.get(row.name, {}).items() if task in tasks}
    return found if len(found) > 1 else Missing(reason="fewer than two tasks have answers in both runs")


def _together(answers: Mapping[str, ItemScores]) -> Figure:
    return Figure(value=100 * float(np.mean(_concatenated(answers))), interval=None)


def _together_change(margin: float, now: Mapping[str, ItemScores], then: Mapping[str, ItemScores]) -> Delta:
    return _paired_change(margin, _concatenated(now), _concatenated({task: then[task] for task in now}))


def _concatenated(answers: Mapping[str, ItemScores]) -> NDArray[np.float64]:
    return np.concatenate([scores.values() for scores in answers.values()])


def _kl_cell(_: Snapshot, row: Row) -> DivergenceCell | Missing:
    return Missing(reason="the baseline itself") if row.is_baseline else row.divergence


def _kl(cell: DivergenceCell) -> Figure:
    return Figure(value=cell.kl.value, interval=cell.kl.interval)


def _kl_change(tolerance: float, now: DivergenceCell, then: DivergenceCell) -> Delta:
    if (then.sequences, then.tokens, then.top_k) != (now.sequences, now.tokens, now.top_k):
        return Delta(None, None, "measured on another text")
    allowed = tolerance / 100 * then.kl.value
    if len(now.by_sequence) == len(then.by_sequence) == now.sequences > 1:
        found = _paired_kl(now, then, allowed)
    else:
        found = _independent(_kl(now), _kl(then), INDEPENDENT.format("a run", "figure of each conversation"))
    if found.interval is None:
        return found
    return found._replace(
        same=_within(found.interval, allowed),
        no_worse=found.interval.high <= allowed,
        limit=f"not shown to be within {tolerance:g} %",
    )


def _paired_kl(now: DivergenceCell, then: DivergenceCell, allowed: float) -> Delta:
    """Compare conversation by conversation; the p-value is of a change of at most `allowed`."""
    differences = np.subtract(now.by_sequence, then.by_sequence)
    number = len(differences)
    change = float(differences.sum()) / now.tokens
    error = float(differences.std(ddof=1)) * math.sqrt(number) / now.tokens
    half = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * error
    beyond = max(abs(change) - allowed, 0.0)
    p_value = 2 * float(stdtr(number - 1, -beyond / error)) if error > 0 else float(beyond == 0)
    return Delta(change, Interval(low=change - half, high=change + half), p_value=p_value)


def _independent(now: Figure, then: Figure, reason: str) -> Delta:
    """Compare independent figures; the p-value is that of the level at which the interval's end would be zero."""
    around = difference(now, then)
    change = now.value - then.value
    if around is None:
        return Delta(change, None, "a figure has no interval")
    distance = change - around.low if change > 0 else around.high - change
    p_value = 2 * float(ndtr(-Z * abs(change) / distance)) if distance > 0 else float(change == 0)
    return Delta(change, around, reason, p_value=p_value)
