"""How much more to measure until an open question would be settled, if what was seen so far goes on.

An estimate from what was measured, not a promise: a rerun with as many items or repeats settles it about four times in
five (the usual power of 80 %) where the figures so far are true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import stdtrit

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL
from pipeline.compare.stats.noninferiority import POWERED, TWO_SIDED

MOST_REPEATS = 100
MOST_ITEMS = 1_000_000


def items_to_settle(difference: PairedDifference, margin: float) -> int | None:
    """Items in all, until the whole interval of a paired difference lies on one side of minus the margin.

    With a share p of items on which the two disagree and a difference d, the variance of one item is p - d^2, and
    n = (z(1 - a/2) + z(power))^2 (p - d^2) / (d + margin)^2 (R. Connor, Biometrics 43, 1987, with a margin).
    The verdict of `noninferiority` is one-sided and comes with fewer.

    Args:
        difference: as seen so far, a share.
        margin: the loss that is still accepted, a share.

    Returns:
        None where the difference is so near to the margin that no benchmark has the items.
    """
    n = difference.n
    # As in the interval, an item on either side that was not seen: no disagreement so far is not none at all.
    disagree = (difference.gained + difference.lost + 2) / (n + 2)
    distance = difference.difference + margin
    if abs(distance) < 1e-12:
        return None
    needed = math.ceil((TWO_SIDED + POWERED) ** 2 * max(disagree - difference.difference**2, 1 / n) / distance**2)
    return None if needed > MOST_ITEMS else max(needed, n + 1)


def repeats_needed(values: Sequence[float], others: Sequence[float]) -> int | None:
    """Repeats of each, until the interval of the ratio of two means would exclude 1 were it to stay where it is.

    The interval is that of `repeats`, with as many repeats on both sides.

    Returns:
        None where `MOST_REPEATS` are not enough, or where nothing is known of the noise.
    """
    if len(values) < 2 or len(others) < 2:
        return None
    spread = math.fsum(_relative_variance(each) for each in (values, others))
    distance = abs(math.log(math.fsum(values) / len(values)) - math.log(math.fsum(others) / len(others)))
    if spread <= 0 or distance == 0:
        return None
    for repeats in range(max(len(values), len(others)) + 1, MOST_REPEATS + 1):
        half = (float(stdtrit(2 * repeats - 2, (1 + LEVEL) / 2)) + POWERED) * math.sqrt(spread / repeats)
        if half < distance:
            return repeats
    return None


def _relative_variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / mean**2
