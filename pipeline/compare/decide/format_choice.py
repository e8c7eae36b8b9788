"""Choice of a number format for each group of a model's weights, with the least cost that a budget of bytes allows.

It is the multiple-choice knapsack problem (H. Kellerer, U. Pferschy, D. Pisinger, Knapsack Problems, 2004, chapter 11):
of each group exactly one option is taken, the sum of bytes is bounded, and the sum of costs is least. A model has some
hundred groups of a few options, for which an exact solution by branch and bound takes less than a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.results.base import Frozen

# HiGHS stops within 1e-6 of the least cost; in these units that is nothing.
LARGEST_COST = 1e4


class Option(Frozen):
    """A format of a group: what it stores, and what it costs in quality.

    Attributes:
        format: name of the format.
        bytes: those of the group's tensors, scales included.
        cost: predicted loss, in a unit of which sums over groups make sense; never negative.
    """

    format: str
    bytes: int
    cost: float


Options = Mapping[str, Sequence[Option]]


def smallest(groups: Options) -> int:
    """Return the bytes of the smallest choice."""
    return sum(min(option.bytes for option in options) for options in groups.values())


def choose(groups: Options, budget: int) -> dict[str, Option] | None:
    """Return the option of each group for which the sum of costs is least, of equal ones a smaller; None if none fits.

    Args:
        groups: the options of each group.
        budget: bytes that all groups may take together.
    """
    if smallest(groups) > budget:
        return None
    kept = {name: _undominated(options) for name, options in groups.items()}
    # Integers far apart lose nothing to the solver's tolerance.
    spare = budget - smallest(kept)
    unit = math.gcd(*(o.bytes - own[0].bytes for own in kept.values() for o in own)) or 1
    return _solve(kept, spare // unit, unit)


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Return the options that are smaller than each that costs no more, the smallest first."""
    found: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bytes, option.cost)):
        if not found or option.cost < found[-1].cost:
            found.append(option)
    return found


def _solve(groups: Mapping[str, Sequence[Option]], spare: int, unit: int) -> dict[str, Option]:
    """Return the least costs within a number of units above the smallest choice, whose options are the first."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    options = [option for own in groups.values() for option in own]
    extra = np.array([(option.bytes - own[0].bytes) // unit for own in groups.values() for option in own], dtype=float)
    costs = np.array([option.cost for option in options])
    one = np.zeros((len(groups), len(options)))
    ends = np.cumsum([len(own) for own in groups.values()])
    for row, (end, own) in enumerate(zip(ends, groups.values(), strict=True)):
        one[row, end - len(own) : end] = 1
    limit = spare
    while True:
        found = milp(
            costs / (costs.max() or 1) * LARGEST_COST,
            integrality=np.ones(len(options), dtype=int),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one, 1, 1), LinearConstraint(extra[None], ub=limit)],
            options={"mip_rel_gap": 0},
        )
        assert found.x is not None, found.message
        chosen = np.flatnonzero(found.x > 0.5)
        # The solver's own tolerance may let a choice through that is larger by a hair.
        if (over := extra[chosen].sum() - spare) <= 0:
            return dict(zip(groups, (options[index] for index in chosen), strict=True))
        limit -= over
