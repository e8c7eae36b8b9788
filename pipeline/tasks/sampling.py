"""Stratified sampling of a task's items: seeded, and proportional to the sizes of its subjects.

The first N items of a benchmark may all be of one subject; a sample drawn per subject estimates the whole.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence

Item = tuple[str, int]


def stratified(strata: Sequence[tuple[Item, Hashable]], limit: int | None, seed: int) -> list[Item]:
    """Draw `limit` of the items, each stratum in proportion to its size (largest remainders), without repeats.

    Within a stratum the order of drawing depends on the seed alone, so a larger limit mostly adds to a smaller one.

    Args:
        strata: the items, as (task, index), each with its stratum.
        limit: sample size; None or the number of items: all.
        seed: seed of the sample.
    """
    if limit is None or limit >= len(strata):
        return [item for item, _ in strata]
    members: dict[Hashable, list[Item]] = defaultdict(list)
    for item, stratum in strata:
        members[stratum].append(item)
    chosen = {
        item
        for stratum, count in _shares({key: len(items) for key, items in members.items()}, limit, seed).items()
        for item in random.Random(f"{seed}|{stratum}").sample(members[stratum], len(members[stratum]))[:count]
    }
    return [item for item, _ in strata if item in chosen]


def nested(strata: Sequence[tuple[Item, Hashable]], share: float, seed: int) -> list[Item]:
    """Draw a share of the items, rounded up, each stratum in proportion; that of a larger share includes it.

    The j-th of the n items of a stratum, in a seeded order, has the place (j - 1/2) / n, and the first places are drawn
    (the method of Webster and Sainte-Laguë, whose sizes only grow with the total).

    Args:
        strata: the items, as (task, index), each with its stratum.
        share: from 0 to 1.
        seed: seed of the order.
    """
    members: dict[Hashable, list[Item]] = defaultdict(list)
    for item, stratum in strata:
        members[stratum].append(item)
    places: list[tuple[float, float, Item]] = []
    for stratum, items in members.items():
        dice = random.Random(f"{seed}|share|{stratum}")
        shuffled = dice.sample(items, len(items))
        places += [((rank + 0.5) / len(items), dice.random(), item) for rank, item in enumerate(shuffled)]
    chosen = {item for _, _, item in sorted(places)[: math.ceil(round(share * len(strata), 9))]}
    return [item for item, _ in strata if item in chosen]


def _shares(sizes: dict[Hashable, int], limit: int, seed: int) -> dict[Hashable, int]:
    """Return the sample size of each stratum; ties between remainders are broken in a seeded order."""
    total = sum(sizes.values())
    exact = {key: limit * size / total for key, size in sizes.items()}
    shares = {key: math.floor(value) for key, value in exact.items()}
    order = random.Random(seed).sample(list(sizes), len(sizes))
    order.sort(key=lambda key: shares[key] - exact[key])
    for key in order[: limit - sum(shares.values())]:
        shares[key] += 1
    return shares
