"""Quality against cost: which variants are on the Pareto frontier, which are not, and which cannot be told.

Two axes at a time, one of quality and one of cost. For each pair of variants an interval of their difference says on
each axis whether one is clearly better (the interval excludes zero), and whether it is clearly no worse (it is not
clearly worse, and its low end is above minus the axis' margin: equality cannot be shown, a bound on the loss can).

* **off**: some other variant is clearly better on one axis and clearly no worse on the other,
* **on**: against each other variant it is clearly better on at least one axis, so none can be better on both,
* **undecided**: neither was shown.

Of two variants at most one can put the other off, since who is clearly better on an axis is clearly worse for the
other. Each comparison is made at 95 % by itself, as in the table; nothing is corrected for their number.
"""

from __future__ import annotations

from typing import Literal

from pipeline.compare.estimates import LEVEL, Frozen
from pipeline.compare.table import Direction

Standing = Literal["on", "off", "undecided"]


class Axis(Frozen):
    """What is weighed: accuracy, a metric of the benchmark, or the checkpoint's size.

    `margin` is in the unit of differences: points of accuracy, percent of anything else.
    """

    name: str
    title: str
    unit: str
    better: Direction
    margin: float


class Place(Frozen):
    """One variant: `beaten_by` are those that put it off, `rivals` those that were not shown to be unable to."""

    name: str
    label: str
    standing: Standing
    beaten_by: tuple[str, ...]
    rivals: tuple[str, ...]
    text: str


class Frontier(Frozen):
    """All variants that have both figures; `absent` names the others, with the reason."""

    quality: Axis
    cost: Axis
    level: float = LEVEL
    places: tuple[Place, ...]
    absent: dict[str, str]
