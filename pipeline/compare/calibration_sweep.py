"""One variant under several calibrations: the effect of technique and number of samples."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.compare.comparison import TaskCell, compare
from pipeline.compare.stats.accuracy import Mean
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Frozen, Missing
from pipeline.results.records import Record


class Choice(Frozen):
    """A technique, its parameter if it has one, and the number of samples."""

    technique: str
    parameter: float | None
    samples: int


class SweepRow(Frozen):
    """The results of the variant under one choice."""

    choice: Choice
    is_current: bool
    tasks: dict[str, TaskCell | Missing]
    mean_accuracy: Mean | Missing
    mean_change: Mean | Missing
    divergence: DivergenceCell | Missing


class Sweep(Frozen):
    """All choices of one variant that were scored under the same conditions."""

    variant: str
    label: str
    tasks: tuple[str, ...]
    rows: tuple[SweepRow, ...]


def sweep(
    variant: str,
    label: str,
    results: Sequence[tuple[Choice, Record]],
    baseline: Record | None,
    tasks: Sequence[str],
    current: Choice | None = None,
) -> Sweep:
    """Compare each choice with BF16 on the same items, sorted by technique and then by samples.

    Args:
        variant: its name.
        label: its name in the report.
        results: each choice with its results.
        baseline: the BF16 row.
        tasks: the tasks of the table.
        current: the choice that the rest of the report shows.
    """
    ordered = sorted(results, key=lambda item: (item[0].technique, item[0].parameter or 0.0, item[0].samples))
    reference = [] if baseline is None else [baseline]
    rows = compare([*reference, *(record for _, record in ordered)], tasks).rows[len(reference) :]
    return Sweep(
        variant=variant,
        label=label,
        tasks=tuple(tasks),
        rows=tuple(
            SweepRow(
                choice=choice,
                is_current=choice == current,
                tasks=row.tasks,
                mean_accuracy=row.mean_accuracy,
                mean_change=row.mean_change,
                divergence=row.divergence,
            )
            for (choice, _), row in zip(ordered, rows, strict=True)
        ),
    )
