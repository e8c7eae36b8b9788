"""Whether a variant may be called no worse than BF16: a verdict at a margin, for every cell of the table.

*No worse* is a non-inferiority test at level 0.05, one-sided: the hypothesis that the variant loses `margin` or more is
rejected. For answers that are right or wrong it is T. Tango's score test of a paired difference (Statist. Med. 17,
1998): with b items that only the variant has right, c that only the baseline has right and D = -margin,

    z = ((b - c)/n - 1/(2n) - D) / sqrt((2q + D(1 - D)) / n),

where q, the share that only the baseline has right, is estimated under the hypothesis: the larger root of
2n q^2 + (-(b + c) + (2n - b + c) D) q - c D (1 - D) = 0. The half item is a correction for continuity, without which
small samples err in a little more than 5 %. Graded scores have a t-test of the mean difference against -margin.

*Worse* is a loss that is real and not shown to be within the margin: McNemar's p-value, corrected by S. Holm's
procedure (Scand. J. Statist. 6, 1979) for all comparisons of the table, is below 0.05. Else one *cannot tell*, and is
told how many items it would take: as many as decide either way with a power of 80 %, at the difference and the rate of
differing answers seen so far; a variant that seems better is taken as equal.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy.special import ndtr, ndtri, stdtr

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.results.base import Frozen

LEVEL = 0.05
POWER = 0.8
ONE_SIDED, TWO_SIDED, POWERED = float(ndtri(1 - LEVEL)), float(ndtri(1 - LEVEL / 2)), float(ndtri(POWER))


class LossVerdict(Frozen):
    """What may be said of a variant's loss on a task; `margin` as a share, 0.01 is one point.

    `p_no_worse` is of the non-inferiority test, `p_holm` McNemar's after correction for the table; `items_needed` is
    there where one cannot tell.
    """

    kind: Literal["no worse", "worse", "cannot tell"]
    margin: float
    p_no_worse: float
    p_holm: float
    items_needed: int | None

    @property
    def text(self) -> str:
        """The verdict in words."""
        points = f"{100 * self.margin:g} point{'' if self.margin == 0.01 else 's'}"
        if self.kind == "no worse":
            return f"no worse (within {points})"
        if self.kind == "worse":
            return "worse"
        return f"cannot tell: needs {self.items_needed:,} items"


def judge_loss(change: PairedDifference, p_holm: float, margin: float) -> LossVerdict:
    """The verdict on one difference, given its corrected p-value."""
    p_no_worse = _p_no_worse(change, margin)
    if p_no_worse <= LEVEL:
        kind: Literal["no worse", "worse", "cannot tell"] = "no worse"
    elif change.difference < 0 and p_holm <= LEVEL and change.is_clear:
        kind = "worse"
    else:
        kind = "cannot tell"
    return LossVerdict(
        kind=kind,
        margin=margin,
        p_no_worse=p_no_worse,
        p_holm=p_holm,
        items_needed=items_needed(change, margin) if kind == "cannot tell" else None,
    )


def tango(gained: int, lost: int, n: int, margin: float) -> float:
    """The one-sided p-value of the hypothesis that the variant loses `margin` or more, of answers right or wrong."""
    at = -margin
    linear = -(gained + lost) + (2 * n - gained + lost) * at
    constant = -lost * at * (1 - at)
    q = (-linear + math.sqrt(max(linear**2 - 8 * n * constant, 0.0))) / (4 * n)
    error = math.sqrt(max(2 * q + at * (1 - at), 0.0) / n)
    excess = (gained - lost) / n - 0.5 / n - at
    return float(ndtr(-excess / error)) if error > 0 else float(excess <= 0)


def items_needed(change: PairedDifference, margin: float) -> int:
    """The items at which a verdict comes with a power of 80 %, where what was seen goes on."""
    difference = min(change.difference, 0.0)
    variance = max(_variance(change) - difference**2, 0.0)
    wanted = [math.inf]
    if difference > -margin:
        wanted.append((ONE_SIDED + POWERED) ** 2 * variance / (margin + difference) ** 2)
    if difference < 0:
        wanted.append((TWO_SIDED + POWERED) ** 2 * variance / difference**2)
    return max(change.n + 1, math.ceil(min(wanted)))


def _variance(change: PairedDifference) -> float:
    """The mean square of an item's difference: the share that differs, or what the interval's width implies."""
    if change.method == "paired t" and change.interval is not None:
        half = (change.interval.high - change.interval.low) / 2
        return change.n * (half / TWO_SIDED) ** 2 + change.difference**2
    # Half an item more than was seen: a rate of none at all would need no items.
    return (change.gained + change.lost + 0.5) / (change.n + 1)


def _p_no_worse(change: PairedDifference, margin: float) -> float:
    if change.method != "paired t":
        return tango(change.gained, change.lost, change.n, margin)
    if change.interval is None or change.interval.high <= change.interval.low:
        return 0.0 if change.difference > -margin else 1.0
    error = math.sqrt(max(_variance(change) - change.difference**2, 0.0) / change.n)
    return float(stdtr(change.n - 1, -(change.difference + margin) / error))
