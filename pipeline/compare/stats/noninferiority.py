"""The non-inferiority verdict on a variant against BF16 at a margin, for every cell of the table.

*No worse* is a one-sided non-inferiority test at level 0.05: the hypothesis that the variant loses `margin` or more is
rejected. For binary scores it is T. Tango's score test of a paired difference (Statist. Med. 17, 1998): with b items
that only the variant answers correctly, c that only the baseline does, and D = -margin,

    z = ((b - c)/n - 1/(2n) - D) / sqrt((2q + D(1 - D)) / n),

where q, the share that only the baseline answers correctly, is estimated under the hypothesis: the larger root of
2n q^2 + (-(b + c) + (2n - b + c) D) q - c D (1 - D) = 0. The half item is a continuity correction, without which the
error rate of small samples is a little above 5 %. Graded scores have a t-test of the mean difference against -margin.

*Worse* is a loss beyond noise that is not shown to be within the margin: McNemar's p-value, corrected by S. Holm's
procedure (Scand. J. Statist. 6, 1979) for all comparisons of the table, is below 0.05. Otherwise the verdict is *cannot
tell*, with the number of items needed to decide either way with a power of 80 %, at the observed difference and rate of
differing answers; a variant with a higher score is treated as equal.
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
    """The verdict on a variant's loss on a task; `margin` as a share, 0.01 is one point.

    `p_no_worse` is the p-value of the non-inferiority test, `p_holm` McNemar's after correction for the table;
    `items_needed` is set if the verdict is `cannot tell`.
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
        return f"cannot tell: {self.items_needed:,} items needed to decide"


def judge_loss(change: PairedDifference, p_holm: float, margin: float) -> LossVerdict:
    """Return the verdict on one difference, given its corrected p-value."""
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
    """Return the one-sided p-value of the hypothesis that the variant loses `margin` or more, for binary scores."""
    at = -margin
    linear = -(gained + lost) + (2 * n - gained + lost) * at
    constant = -lost * at * (1 - at)
    q = (-linear + math.sqrt(max(linear**2 - 8 * n * constant, 0.0))) / (4 * n)
    error = math.sqrt(max(2 * q + at * (1 - at), 0.0) / n)
    excess = (gained - lost) / n - 0.5 / n - at
    return float(ndtr(-excess / error)) if error > 0 else float(excess <= 0)


def items_needed(change: PairedDifference, margin: float) -> int:
    """Return the items needed for a verdict with a power of 80 %, if the observed difference holds."""
    difference = min(change.difference, 0.0)
    variance = max(_variance(change) - difference**2, 0.0)
    sizes = [math.inf]
    if difference > -margin:
        sizes.append((ONE_SIDED + POWERED) ** 2 * variance / (margin + difference) ** 2)
    if difference < 0:
        sizes.append((TWO_SIDED + POWERED) ** 2 * variance / difference**2)
    return max(change.n + 1, math.ceil(min(sizes)))


def _variance(change: PairedDifference) -> float:
    """Return the mean square of an item's difference: the differing share, or derived from the interval's width."""
    if change.method == "paired t" and change.interval is not None:
        half = (change.interval.high - change.interval.low) / 2
        return change.n * (half / TWO_SIDED) ** 2 + change.difference**2
    # Half an item more than observed: a rate of zero would need no items.
    return (change.gained + change.lost + 0.5) / (change.n + 1)


def _p_no_worse(change: PairedDifference, margin: float) -> float:
    if change.method != "paired t":
        return tango(change.gained, change.lost, change.n, margin)
    if change.interval is None or change.interval.high <= change.interval.low:
        return 0.0 if change.difference > -margin else 1.0
    error = math.sqrt(max(_variance(change) - change.difference**2, 0.0) / change.n)
    return float(stdtr(change.n - 1, -(change.difference + margin) / error))
