"""A published study beside what was measured here, cell by cell, and its own arithmetic done again.

On the study's model and hardware figures are compared; elsewhere only ratios to BF16, which travel further. A published
figure comes from a single run with no interval: it agrees where the measured interval holds it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.compare.estimates import Frozen, Interval, Missing


class Source(Frozen):
    """Where a table was published, and what it was measured with."""

    document: str
    section: str
    publisher: str
    software: str = ""
    load: str = ""


class PublishedRow(Frozen):
    """One row as printed: figures by metric, percentages by metric; `reason` where the study prints N/A.

    `variants` are ours that it corresponds to, the closest first.
    """

    label: str
    variants: tuple[str, ...]
    figures: dict[str, float] = Field({})
    printed_percent: dict[str, float] = Field({})
    reason: str = ""


class SpeedTable(Frozen):
    """Figures of a serving benchmark; `hardware` as printed, `gpu` as the catalogue names it."""

    kind: Literal["speed"]
    name: str
    title: str
    source: Source
    model: str
    hardware: str
    gpu: str
    rows: tuple[PublishedRow, ...]


class AccuracyTable(Frozen):
    """Shares of right answers in percent, and how many items each task has, with the source of that number."""

    kind: Literal["accuracy"]
    name: str
    title: str
    source: Source
    model: str
    items: dict[str, int]
    items_source: str
    rows: tuple[PublishedRow, ...]


class PrintedCheck(Frozen):
    """A printed percentage against the one that the printed figures give; a slip where rounding cannot explain it."""

    table: str
    label: str
    metric: str
    printed: float
    recomputed: float
    is_slip: bool


class PublishedDifference(Frozen):
    """A published accuracy minus BF16's, in points, by two independent samples: noise where the interval holds zero.

    `items` is the difference as a number of items.
    """

    table: str
    label: str
    task: str
    n: int
    points: float
    items: int
    interval: Interval
    z: float
    within_noise: bool


class ReproducedCell(Frozen):
    """One published figure with ours; changes against BF16 in percent (points for accuracy).

    `agrees` is None where there is no interval to hold the published figure against, or no figure.
    """

    label: str
    variant: str | None
    metric: str
    published: float | Missing
    published_change: float | None
    measured: float | Missing
    measured_interval: Interval | None
    measured_change: float | None
    measured_change_interval: Interval | None
    agrees: bool | None


class Reproduction(Frozen):
    """One published table; `basis`: figures on the same model and hardware, else ratios against BF16."""

    table: str
    title: str
    source: Source
    basis: Literal["figures", "ratios"]
    why: str
    cells: tuple[ReproducedCell, ...]
    printed: tuple[PrintedCheck, ...]
    differences: tuple[PublishedDifference, ...]
