"""Published tables as data, and a check of their arithmetic: printed percentages, and differences within noise.

Published answers are not available item by item, so a published accuracy difference is one of two independent samples,
with the interval (p - q) +- z sqrt(p(1-p)/n + q(1-q)/n) (A. Agresti, Categorical Data Analysis, 3rd ed., 2013, section
3.1). Answers to the same questions are not independent, so the interval is wider than a paired one would be.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.compare.roofline.batching import RooflineLoad
from pipeline.compare.stats.accuracy import Z
from pipeline.compare.stats.intervals import Interval, excludes_zero
from pipeline.results.base import Frozen

BASELINE = "bf16"


class Publication(Frozen):
    """The publication of a table, with the software and load of the measurement."""

    document: str
    section: str
    publisher: str
    software: str = ""
    load: str = ""


class PublishedRow(Frozen):
    """One row as printed: figures by metric or task, percentages by metric; `reason` where the study prints N/A.

    `variants` are the corresponding variants of this project, the closest first.
    """

    label: str
    variants: tuple[str, ...] = Field(min_length=1)
    figures: dict[str, float] = Field({})
    printed_percent: dict[str, float] = Field({})
    reason: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> PublishedRow:
        if bool(self.figures) == bool(self.reason):
            raise ValueError(f"{self.label}: a row needs either figures or a reason")
        if unknown := set(self.printed_percent) - set(self.figures):
            raise ValueError(f"{self.label}: a percentage without its figure: {', '.join(sorted(unknown))}")
        if not all(value > 0 for value in self.figures.values()):
            raise ValueError(f"{self.label}: figures must be above zero")
        return self


class _Table(Frozen):
    name: str
    title: str
    source: Publication
    model: str
    rows: tuple[PublishedRow, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _has_a_baseline(self) -> _Table:
        if sum(row.variants == (BASELINE,) and bool(row.figures) for row in self.rows) != 1:
            raise ValueError(f"{self.name}: exactly one row must be BF16")
        if len({row.label for row in self.rows}) < len(self.rows):
            raise ValueError(f"{self.name}: two rows have the same label")
        return self

    @property
    def baseline(self) -> PublishedRow:
        """The BF16 row."""
        return next(row for row in self.rows if row.variants == (BASELINE,))


class SpeedTable(_Table):
    """Figures of a serving benchmark; `hardware` as printed, `gpu` as the catalogue names it."""

    kind: Literal["speed"]
    hardware: str
    gpu: str


class AccuracyTable(_Table):
    """Shares of correct answers in percent, and the number of items of each task, with the source of that number."""

    kind: Literal["accuracy"]
    items: dict[str, int]
    items_source: str

    @model_validator(mode="after")
    def _counts_items(self) -> AccuracyTable:
        for row in self.rows:
            for task, percent in row.figures.items():
                if task not in self.items:
                    raise ValueError(f"{row.label}: the number of items of {task} is not given")
                right = round(percent / 100 * self.items[task])
                if abs(100 * right / self.items[task] - percent) > 0.005 + 1e-9:
                    raise ValueError(f"{row.label}: {percent} % of {task} is not a whole number of items")
        return self


class PublishedProtocol(Frozen):
    """The protocol of speed tables: the fields of the model's config.json that define its shape, and the load.

    `utilization` is the share of the memory that the server used; `assumptions` replace what the study does not state.
    """

    kind: Literal["protocol"]
    name: str
    tables: tuple[str, ...]
    model: str
    hub_id: str
    config_source: str
    config: dict[str, Any]
    load: RooflineLoad
    utilization: float = Field(gt=0, le=1)
    assumptions: tuple[str, ...]


PublishedTable = SpeedTable | AccuracyTable
Published = Annotated[SpeedTable | AccuracyTable | PublishedProtocol, Field(discriminator="kind")]


class PrintedCheck(Frozen):
    """A printed percentage and the one recomputed from printed figures; a slip if rounding cannot explain it."""

    label: str
    metric: str
    printed: float
    recomputed: float
    is_slip: bool


class PublishedDifference(Frozen):
    """A published accuracy minus BF16's, in points, as independent samples: noise if the interval contains zero.

    `items` is the difference as a number of items.
    """

    label: str
    task: str
    n: int
    points: float
    items: int
    interval: Interval
    z: float

    @property
    def within_noise(self) -> bool:
        """True if the interval contains zero."""
        return not excludes_zero(self.interval)


def recompute(table: PublishedTable) -> tuple[PrintedCheck, ...]:
    """Recompute every printed percentage against BF16 from the printed figures."""
    return tuple(
        PrintedCheck(
            label=row.label,
            metric=metric,
            printed=printed,
            recomputed=(change := percent_change(row.figures[metric], table.baseline.figures[metric])),
            # Half a unit of the last printed digit, plus floating-point error.
            is_slip=abs(change - printed) > 0.5 * 10 ** -_decimals(printed) + 1e-9,
        )
        for row in table.rows
        for metric, printed in row.printed_percent.items()
    )


def published_differences(table: AccuracyTable) -> tuple[PublishedDifference, ...]:
    """Return the difference of every published accuracy from BF16's."""
    found = []
    for row in table.rows:
        for task, percent in row.figures.items() if row is not table.baseline else ():
            n = table.items[task]
            ours, theirs = (round(value / 100 * n) for value in (percent, table.baseline.figures[task]))
            p, q = ours / n, theirs / n
            error = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
            found.append(
                PublishedDifference(
                    label=row.label,
                    task=task,
                    n=n,
                    points=100 * (p - q),
                    items=ours - theirs,
                    interval=Interval(low=100 * (p - q - Z * error), high=100 * (p - q + Z * error)),
                    z=(p - q) / error if error else 0.0,
                )
            )
    return tuple(found)


def percent_change(value: float, reference: float) -> float:
    """Return the change from `reference` to `value`, in percent."""
    return 100 * (value / reference - 1)


def _decimals(printed: float) -> int:
    return len(repr(printed).partition(".")[2])
