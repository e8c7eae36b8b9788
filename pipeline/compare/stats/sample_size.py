"""Items needed to decide an open question, if the figures so far hold; repeats are `measurement_model`'s.

This is an estimate: a rerun with that many items decides in four of five cases (the usual power of 80 %) if
the figures so far are true.
"""

from __future__ import annotations

import math

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.noninferiority import POWERED, TWO_SIDED

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
