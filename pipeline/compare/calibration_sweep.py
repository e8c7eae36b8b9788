"""One variant under several calibrations: what the choice of technique and number of samples changed."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.compare.comparison import TaskCell, compare
from pipeline.compare.stats.accuracy import Mean
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Frozen, Missing
from pipeline.results.records import Record


class Choice(Frozen):
    """How the scales were made; `parameter` is the technique's own, where it has one."""

    technique: str
    parameter: float | None
    samples: int


class SweepRow(Frozen):
    """The variant as one choice makes it."""

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
    made: Sequence[tuple[Choice, Record]],
    baseline: Record | None,
    tasks: Sequence[str],
    current: Choice | None = None,
) -> Sweep:
    """Each choice against BF16 on the same items, by technique and then by samples.

    Args:
        variant: its name.
        label: its name in the report.
        made: each choice with what was measured of it.
        baseline: the BF16 row.
        tasks: the tasks of the table.
        current: the choice that the rest of the report shows.
    """
    ordered = sorted(made, key=lambda item: (item[0].technique, item[0].parameter or 0.0, item[0].samples))
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
