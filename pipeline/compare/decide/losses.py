"""Differences of one row's accuracy from BF16, by the verdicts of the table."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.compare.comparison import Row, TaskCell
from pipeline.compare.statements import in_points, listing
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import LossVerdict, MeanLoss, judge_loss, judge_mean, points
from pipeline.results.base import Missing


def scored(row: Row) -> dict[str, TaskCell]:
    """Return the cells with an accuracy, by task."""
    return {task: cell for task, cell in row.tasks.items() if isinstance(cell, TaskCell)}


def is_scored(row: Row) -> bool:
    """Return True if every task has a verdict."""
    judged = [cell for cell in scored(row).values() if isinstance(cell.loss, LossVerdict)]
    return bool(row.tasks) and len(judged) == len(row.tasks)


def is_no_worse(row: Row) -> bool:
    """Return True if every task's verdict, and that of the mean, is *no worse*."""
    verdicts = [cell.loss for cell in scored(row).values() if isinstance(cell.loss, LossVerdict)]
    kept = isinstance(row.mean_loss, MeanLoss) and row.mean_loss.is_within
    return is_scored(row) and kept and all(each.kind == "no worse" for each in verdicts)


def losses(row: Row) -> dict[str, PairedDifference]:
    """Return the losses shown to be beyond the margin, by task."""
    return {task: _change(cell) for task, cell in scored(row).items() if cell.is_loss}


def lowered(row: Row) -> dict[str, PairedDifference]:
    """Return the losses that are shown, but neither to be within the margin nor beyond, by task."""
    return {task: _change(cell) for task, cell in scored(row).items() if cell.is_lower}


def wins(row: Row) -> dict[str, PairedDifference]:
    """Return the gains of accuracy that are shown, by task."""
    return {task: _change(cell) for task, cell in scored(row).items() if cell.is_gain}


def verdict_at(cell: TaskCell, margin: float | None) -> LossVerdict | None:
    """Return the verdict at a margin, a share; None for the table's."""
    loss = cell.loss
    if not isinstance(loss, LossVerdict) or not isinstance(cell.change, PairedDifference):
        return None
    if margin is None or margin == loss.margin:
        return loss
    return judge_loss(
        cell.change,
        loss.p_holm,
        margin,
        comparisons=loss.comparisons,
        available=loss.available,
        blind=loss.blind,
    )


def mean_loss_at(row: Row, limits: Mapping[str, float]) -> MeanLoss | Missing:
    """Return the verdict on the mean loss; where each task has a limit above the table's, a share, at the smallest."""
    found, margin = row.mean_loss, min((limits.get(task, 0.0) for task in row.tasks), default=0.0)
    if isinstance(found, Missing) or found.is_within or margin <= found.margin:
        return found
    return judge_mean([_change(cell) for cell in scored(row).values()], margin) or found


def tested_interval(change: PairedDifference, loss: LossVerdict) -> str:
    """Format a difference with the 90 % interval that its verdict goes by."""
    around = loss.interval or Interval(low=-1.0, high=1.0)
    return f"{in_points(change.difference)} points (90 %: {in_points(around.low)} to {in_points(around.high)})"


def worst_loss(row: Row) -> tuple[str, float] | None:
    """Return the task with the largest loss that is not ruled out, and that loss, a share; None if there is none."""
    bounds = {
        task: -cell.loss.interval.low
        for task, cell in scored(row).items()
        if isinstance(cell.loss, LossVerdict) and cell.loss.interval is not None
    }
    if not bounds:
        return None
    task = max(bounds, key=lambda name: bounds[name])
    return (task, bounds[task]) if bounds[task] > 0 else None


def within(row: Row, limits: Mapping[str, float]) -> str:
    """Describe the margins that the verdicts of a row hold to: "within 1 point; HumanEval within 8.5 points"."""
    margins = {
        task: limits.get(task, cell.loss.margin)
        for task, cell in scored(row).items()
        if isinstance(cell.loss, LossVerdict)
    }
    groups: dict[float, list[str]] = {}
    for task, margin in sorted(margins.items(), key=lambda item: item[1]):
        groups.setdefault(margin, []).append(task)
    if len(groups) == 1:
        return f"within {points(next(iter(groups)))}"
    return "; ".join(f"{listing(tasks)} within {points(margin)}" for margin, tasks in groups.items())


def _change(cell: TaskCell) -> PairedDifference:
    assert isinstance(cell.change, PairedDifference)
    return cell.change
