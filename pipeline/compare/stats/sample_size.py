"""Items or repeats needed to decide an open question, if the figures so far hold.

This is an estimate: a rerun with that many items or repeats decides in four of five cases (the usual power of 80 %) if
the figures so far are true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import stdtrit

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import LEVEL
from pipeline.compare.stats.noninferiority import POWERED, TWO_SIDED

MAX_REPEATS = 100
MAX_ITEMS = 1_000_000


def items_to_settle(difference: PairedDifference, margin: float) -> int | None:
    """Return the total of items for the interval of a paired difference to lie on one side of minus the margin.

    With a share p of items on which the two disagree and a difference d, the variance of one item is p - d^2, and
    n = (z(1 - a/2) + z(power))^2 (p - d^2) / (d + margin)^2 (R. Connor, Biometrics 43, 1987, with a margin).
    The verdict of `noninferiority` is one-sided and needs fewer.

    Args:
        difference: the observed difference, a share.
        margin: the accepted loss, a share.

    Returns:
        None if the difference is so close to the margin that no benchmark has enough items.
    """
    n = difference.n
    # As in the interval, one more item on either side: no disagreement so far does not mean a rate of zero.
    disagree = (difference.gained + difference.lost + 2) / (n + 2)
    distance = difference.difference + margin
    if abs(distance) < 1e-12:
        return None
    needed = math.ceil((TWO_SIDED + POWERED) ** 2 * max(disagree - difference.difference**2, 1 / n) / distance**2)
    return None if needed > MAX_ITEMS else max(needed, n + 1)


def repeats_needed(values: Sequence[float], others: Sequence[float]) -> int | None:
    """Return the repeats of each for the interval of the ratio of two means to exclude 1, if the ratio holds.

    The interval is that of `repeats`, with equally many repeats on both sides.

    Returns:
        None if `MAX_REPEATS` are not enough, or if the noise is unknown.
    """
    if len(values) < 2 or len(others) < 2:
        return None
    spread = math.fsum(_relative_variance(each) for each in (values, others))
    distance = abs(math.log(math.fsum(values) / len(values)) - math.log(math.fsum(others) / len(others)))
    if spread <= 0 or distance == 0:
        return None
    for repeats in range(max(len(values), len(others)) + 1, MAX_REPEATS + 1):
        half = (float(stdtrit(2 * repeats - 2, (1 + LEVEL) / 2)) + POWERED) * math.sqrt(spread / repeats)
        if half < distance:
            return repeats
    return None


def _relative_variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / mean**2
