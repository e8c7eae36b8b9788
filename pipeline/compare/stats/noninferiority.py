"""The verdict on a variant's loss on a task, at a margin: the one criterion of a loss in the whole report.

Two one-sided tests at a level of 0.05 compare the loss with the margin (D. Schuirmann, J. Pharmacokinet. Biopharm. 15,
1987, for the pair of tests; their ends are those of the 90 % interval):

* *no worse*: a loss of the margin or more is rejected (non-inferiority),
* *worse*: a loss of the margin or less is rejected, and McNemar's test rejects that there is no loss at all; both
  corrected by S. Holm's procedure (Scand. J. Statist. 6, 1979) for all comparisons of the table,
* *cannot tell* otherwise, with the number of items that would decide (`sample_size`). So a loss inside the margin is
  called *worse* in at most 5 % of tables, and one of the margin or more *no worse* in at most 5 %.

A verdict of *no worse* on every task of a variant needs no correction: the union of the hypotheses is rejected only if
each is (R. Berger, Technometrics 24, 1982). It is one of a single variant: among many variants that each lose their
margin, one in twenty is called no worse.

Binary scores have T. Tango's score test (`paired_score`), graded ones the t-test of the mean difference.

Margins may differ by task, since a small set cannot rule out a small loss. So that several wide margins do not add up,
the mean over all tasks is judged too (`judge_mean`), at `MEAN_MARGIN`, or at the smallest margin that was asked for if
that is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.paired_score import ends, p_above, p_below
from pipeline.compare.stats.sample_size import (
    LEVEL,
    ItemsNeeded,
    items_needed,
    items_needed_graded,
    least_margin,
    never_shown,
)
from pipeline.results.base import Frozen

# Accepted loss on a task unless set otherwise, and of the mean over tasks: one point, and three.
MARGIN = 0.01
MEAN_MARGIN = 0.03
TWO_SIDED = float(ndtri(1 - 0.05 / 2))
# A task whose baseline is not above chance by so many margins cannot show a loss of one.
HEADROOM = 2

Kind = Literal["no worse", "worse", "cannot tell"]


class TaskMargin(Frozen):
    """The accepted loss on a task, a share.

    `available` is the size of the whole set, None if unknown; `is_widened` if the set cannot show the default;
    `never_shown` is the loss up to which not even identical answers to the whole set are found no worse.
    """

    margin: float
    available: int | None = None
    is_widened: bool = False
    never_shown: float | None = None


class LossVerdict(Frozen):
    """The verdict on a variant's loss on a task; `margin` as a share, 0.01 is one point.

    Attributes:
        p_no_worse: p-value of a loss of the margin or more.
        p_worse: p-value of a loss of the margin or less, corrected for the table.
        p_holm: McNemar's p-value after correction for the table.
        comparisons: those of the table.
        interval: the losses that neither test rejects, as differences: a 90 % interval.
        items: the items that would decide, if the verdict is `cannot tell`; `items_needed` is their number, None if the
            set has fewer.
        blind: the reason why the task cannot show a loss at all.
    """

    kind: Kind
    margin: float
    p_no_worse: float
    p_worse: float
    p_holm: float
    comparisons: int = 1
    interval: Interval | None = None
    items_needed: int | None = None
    items: ItemsNeeded | None = None
    blind: str = ""
    # Items of the whole set, None if unknown.
    available: int | None = None

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.kind == "no worse":
            return f"no worse (within {points(self.margin)})"
        if self.kind == "worse":
            return f"worse (by more than {points(self.margin)})"
        if self.blind:
            return f"cannot tell: {self.blind}"
        assert self.items is not None
        return f"cannot tell within {points(self.margin)}: {self.items.text()} needed to decide"


class MeanLoss(Frozen):
    """The verdict on the mean of all tasks: `is_within` if a mean loss of the margin or more is rejected."""

    margin: float
    p_value: float

    @property
    def is_within(self) -> bool:
        """True if the mean loss is shown to be less than the margin."""
        return self.p_value <= LEVEL


def points(share: float) -> str:
    """Format a share in points."""
    return f"{100 * share:g} point{'' if math.isclose(share, 0.01) else 's'}"


def task_margin(wanted: float | None, available: int | None) -> TaskMargin:
    """Return a task's margin: the wanted one, else one point or as much more as the whole set needs to show it."""
    shown = never_shown(available) if available else None
    if wanted is not None or not available:
        return TaskMargin(margin=MARGIN if wanted is None else wanted, available=available, never_shown=shown)
    margin = least_margin(available, MARGIN)
    return TaskMargin(margin=margin, available=available, is_widened=margin > MARGIN, never_shown=shown)


def judge_loss(
    change: PairedDifference,
    p_holm: float,
    margin: float,
    *,
    p_worse: float | None = None,
    comparisons: int = 1,
    available: int | None = None,
    blind: str = "",
) -> LossVerdict:
    """Return the verdict on one difference.

    Args:
        change: the difference.
        p_holm: McNemar's p-value, corrected for the table.
        margin: the accepted loss, a share.
        p_worse: that of a loss of more than the margin, corrected for the table; None: multiplied by `comparisons`.
        comparisons: those of the table.
        available: items of the whole set.
        blind: the reason why the task cannot show a loss; it prevents the verdict *no worse*.
    """
    p_no_worse = p_within(change, margin)
    p_worse = min(1.0, comparisons * p_beyond(change, margin)) if p_worse is None else p_worse
    kind: Kind = "cannot tell"
    if p_no_worse <= LEVEL:
        kind = "cannot tell" if blind else "no worse"
    elif p_worse <= LEVEL and p_holm <= LEVEL and change.is_clear:
        kind = "worse"
    items = _items(change, margin, comparisons, available) if kind == "cannot tell" else None
    return LossVerdict(
        kind=kind,
        margin=margin,
        p_no_worse=p_no_worse,
        p_worse=p_worse,
        p_holm=p_holm,
        comparisons=comparisons,
        interval=loss_interval(change),
        items_needed=items.likely if items is not None and items.within_set else None,
        items=items,
        blind=blind if kind == "cannot tell" else "",
        available=available,
    )


def mean_margin(margins: Sequence[TaskMargin]) -> float:
    """Return the accepted loss of the mean over tasks, a share."""
    return max(MEAN_MARGIN, min((each.margin for each in margins if not each.is_widened), default=0.0))


def judge_mean(changes: Sequence[PairedDifference], margin: float) -> MeanLoss | None:
    """Return the verdict on the mean of several tasks' differences, with equal weights; None without intervals.

    Each task's variance is that of D. Bonett and R. Price's interval (`accuracy`); the test is normal.
    """
    intervals = [change.interval for change in changes if change.interval is not None]
    if not changes or len(intervals) < len(changes):
        return None
    centre = math.fsum((each.low + each.high) / 2 for each in intervals) / len(changes)
    error = math.sqrt(math.fsum(((i.high - i.low) / 2 / TWO_SIDED) ** 2 for i in intervals)) / len(changes)
    return MeanLoss(
        margin=margin, p_value=float(ndtr(-(centre + margin) / error)) if error else float(centre <= -margin)
    )


def blindness(baseline: float, low: float, chance: float, margin: float) -> str:
    """Return the reason why a task cannot show a loss of `margin`, empty if it can.

    Args:
        baseline: the accuracy of BF16.
        low: the lower end of its interval.
        chance: the accuracy of guessing, zero for tasks that generate text.
        margin: the accepted loss.
    """
    if low > chance + HEADROOM * margin:
        return ""
    if chance > 0:
        return f"BF16 itself scores {100 * baseline:.1f} %, near the {100 * chance:.1f} % of guessing"
    return f"BF16 itself scores only {100 * baseline:.1f} %"


def tango(gained: int, lost: int, n: int, margin: float) -> float:
    """Return the one-sided p-value of the hypothesis that the variant loses `margin` or more, for binary scores."""
    return float(p_above(gained, lost, n, -margin))


def p_within(change: PairedDifference, margin: float) -> float:
    """Return the p-value of a loss of `margin` or more."""
    if change.method != "paired t":
        return tango(change.gained, change.lost, change.n, margin)
    error = _error(change)
    if not error:
        return 0.0 if change.interval is not None and change.difference > -margin else 1.0
    return float(stdtr(change.n - 1, -(change.difference + margin) / error))


def p_beyond(change: PairedDifference, margin: float) -> float:
    """Return the p-value of a loss of `margin` or less."""
    if change.method != "paired t":
        return float(p_below(change.gained, change.lost, change.n, -margin))
    error = _error(change)
    if not error:
        return 0.0 if change.interval is not None and change.difference < -margin else 1.0
    return float(stdtr(change.n - 1, (change.difference + margin) / error))


def loss_interval(change: PairedDifference) -> Interval | None:
    """Return the differences that neither test at a margin rejects: the 90 % interval that the verdict goes by."""
    if change.method != "paired t":
        low, high = ends(change.gained, change.lost, change.n, LEVEL)
        return Interval(low=low, high=high)
    if change.interval is None:
        return None
    half = float(stdtrit(change.n - 1, 1 - LEVEL)) * (_error(change) or 0.0)
    return Interval(low=change.difference - half, high=change.difference + half)


def _items(change: PairedDifference, margin: float, comparisons: int, available: int | None) -> ItemsNeeded:
    if change.method != "paired t" or change.interval is None:
        return items_needed(change.gained, change.lost, change.n, margin, comparisons=comparisons, available=available)
    variance = change.n * (_error(change) or 0.0) ** 2
    return items_needed_graded(
        change.difference, variance, change.n, margin, comparisons=comparisons, available=available
    )


def _error(change: PairedDifference) -> float | None:
    """Return the standard error of graded scores' mean difference, from their interval; None if they do not differ."""
    if change.interval is None or change.interval.high <= change.interval.low:
        return None
    half = (change.interval.high - change.interval.low) / 2
    return half / float(stdtrit(change.n - 1, 1 - 0.05 / 2))
