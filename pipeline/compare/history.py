"""Several runs side by side: changes in settings, versions and results, and regressions beyond noise.

The figures, and how each is compared, are those of `run_figures`.

P-values are corrected by S. Holm's procedure (Scand. J. Statist. 6, 1979) in two families, speed and quality, over
variants and figures. They are two-sided at 5 %, so that a run without any change has a figure called worse in at most
2.5 % of cases for each family. A figure is

* `worse` or `better`: the corrected p-value is below 0.05, and the interval excludes zero,
* `unchanged`: a change beyond the tolerance (speed, size, KL) or a loss beyond the task's margin is ruled out,
* `cannot tell`: neither is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pipeline.compare.decide.differences import variation_text
from pipeline.compare.run_figures import ALL_TASKS as ALL_TASKS
from pipeline.compare.run_figures import Column, Delta, columns
from pipeline.compare.run_figures import Figure as Figure
from pipeline.compare.run_figures import RunName as RunName
from pipeline.compare.run_figures import Snapshot as Snapshot
from pipeline.compare.statements import listing
from pipeline.compare.stats.intervals import LEVEL, Interval, excludes_zero, holm
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import Direction

Movement = Literal["worse", "gone", "cannot tell", "not compared", "unchanged", "better", "new"]
# The most urgent first.
MOVEMENTS: tuple[Movement, ...] = get_args(Movement)


class SettingChange(Frozen):
    """A setting or a version that differs between runs; None for a run without it."""

    variant: str
    name: str
    values: tuple[str | None, ...]


class ResultChange(Frozen):
    """One figure of one variant over the runs, the latest run last.

    `change` is from the previous run to the last: in percent, in points for accuracy, in the figure's unit for KL
    divergence; `p_holm` is its p-value after correction. The movement `not compared` means that the two cannot be
    compared; `reason` says why, and otherwise what limits the comparison. `may_be_worse` is False if a worsening beyond
    tolerance or margin is ruled out.
    """

    variant: str
    label: str
    column: str
    title: str
    unit: str
    figures: tuple[Figure | None, ...]
    change: float | None
    interval: Interval | None
    movement: Movement
    reason: str = ""
    p_holm: float | None = None
    may_be_worse: bool = True


class History(Frozen):
    """All runs, this one last."""

    runs: tuple[RunName, ...]
    tolerance_percent: float
    settings: tuple[SettingChange, ...]
    versions: tuple[SettingChange, ...]
    results: tuple[ResultChange, ...]
    # By how much BF16's own speed varied between the repeats of the last run, in words.
    noise: str = ""

    @property
    def regressions(self) -> tuple[ResultChange, ...]:
        """The figures that became worse beyond noise, or are gone."""
        return tuple(change for change in self.results if change.movement in ("worse", "gone"))

    @property
    def undecided(self) -> tuple[ResultChange, ...]:
        """The figures that may have become worse: cannot be told, or not comparable."""
        return tuple(c for c in self.results if c.movement in ("cannot tell", "not compared") and c.may_be_worse)

    @property
    def summary(self) -> str:
        """The number of figures of each movement, the most urgent first, and the noise of BF16 where it hides some."""
        counts = Counter(change.movement for change in self.results)
        noise = {"cannot tell": f" ({self.noise})"} if self.noise else {}
        return ", ".join(
            f"{counts[movement]} {movement}{noise.get(movement, '')}" for movement in MOVEMENTS if counts[movement]
        )


def history(runs: Sequence[Snapshot], tolerance_percent: float) -> History:
    """Compare runs, the oldest first.

    Args:
        runs: at least two; the last is the current one.
        tolerance_percent: variation between sessions in percent: the standard deviation of a session's speed, and the
            change of speed, size or KL divergence that counts as none.
    """
    labels = {row.name: row.label for run in runs for row in run.comparison.rows}
    compared = columns(runs, tolerance_percent)
    tables = {column.name: _changes(runs, list(labels), column) for column in compared}
    p_holm = _corrected(compared, tables)
    return History(
        runs=tuple(run.run for run in runs),
        tolerance_percent=tolerance_percent,
        settings=tuple(_settings(runs)),
        versions=tuple(_differing("", [run.versions for run in runs])),
        noise=variation_text(runs[-1].comparison),
        results=tuple(
            result
            for name, label in labels.items()
            for column in compared
            if (result := _result(runs, name, label, column, tables[column.name], p_holm.get((name, column.name))))
            is not None
        ),
    )


def _corrected(compared: Sequence[Column], tables: Mapping[str, Mapping[str, Delta]]) -> dict[tuple[str, str], float]:
    """Return the p-value of each variant's figure, corrected within its family."""
    corrected: dict[tuple[str, str], float] = {}
    for family in dict.fromkeys(column.family for column in compared):
        corrected |= holm(
            {
                (name, column.name): found.p_value
                for column in compared
                if column.family == family
                for name, found in tables[column.name].items()
                if found.p_value is not None
            }
        )
    return corrected


def _cells(runs: Sequence[Snapshot], name: str, column: Column) -> list[Any]:
    """Return the cell of each run; Missing for a run without the variant."""
    rows = [(run, next((row for row in run.comparison.rows if row.name == name), None)) for run in runs]
    return [Missing(reason="not among the results") if row is None else column.cell(run, row) for run, row in rows]


def _changes(runs: Sequence[Snapshot], names: Sequence[str], column: Column) -> dict[str, Delta]:
    """Return the change of each variant that has the figure in the last two runs."""
    pairs = {}
    for name in names:
        then, now = _cells(runs[-2:], name, column)
        if not isinstance(then, Missing) and not isinstance(now, Missing):
            pairs[name] = (now, then)
    if reason := _incomparable(runs, column):
        return {name: Delta(None, None, reason) for name in pairs}
    if not column.needs_machine:
        return column.compare(pairs)
    apart = {name: reason for name in pairs if (reason := _other_device(runs, name) or _unreliable(runs, name))}
    return column.compare({name: pair for name, pair in pairs.items() if name not in apart}) | {
        name: Delta(None, None, reason) for name, reason in apart.items()
    }


def _incomparable(runs: Sequence[Snapshot], column: Column) -> str:
    before, after = (run.run for run in runs[-2:])
    # Two models may have one name, and one model two.
    is_told = bool(before.weights and after.weights)
    if (before.weights != after.weights) if is_told else (before.model != after.model):
        return f"measured with {'other weights' if before.model == after.model else f'another model ({before.model})'}"
    if column.needs_machine and before.machine != after.machine:
        return f"measured on another machine ({before.machine})"
    if column.needs_machine and before.load != after.load:
        return f"measured under another load ({before.load})"
    return ""


def _other_device(runs: Sequence[Snapshot], variant: str) -> str:
    before, after = (run.devices.get(variant, ()) for run in runs[-2:])
    apart = before and after and not set(before) & set(after)
    return f"measured on another device of that kind ({', '.join(before)})" if apart else ""


def _unreliable(runs: Sequence[Snapshot], variant: str) -> str:
    """Return the guards that failed while a variant's speed was measured in one of the last two runs."""
    for run in runs[-2:]:
        marks = next((row.marks for row in run.comparison.rows if row.name == variant), ())
        if failed := dict.fromkeys(mark.partition(": ")[0] for mark in marks):
            return f"measured while a guard failed in {run.run.name}: {listing(failed)}"
    return ""


def _result(
    runs: Sequence[Snapshot],
    name: str,
    label: str,
    column: Column,
    changes: Mapping[str, Delta],
    p_holm: float | None,
) -> ResultChange | None:
    """Return one figure over the runs; None if no run has it."""
    cells = _cells(runs, name, column)
    figures = tuple(None if isinstance(cell, Missing) else column.figure(cell) for cell in cells)
    if not any(figures):
        return None
    then, now = cells[-2:]
    found, movement = Delta(None, None), _movement_of(then, now)
    reason = now.reason if isinstance(now, Missing) else ""
    if name in changes:
        found = changes[name]
        movement = _moved(found, p_holm, column.better)
        reason = "; ".join(filter(None, (found.limit if movement == "cannot tell" else "", found.reason)))
    return ResultChange(
        variant=name,
        label=label,
        column=column.name,
        title=column.title,
        unit=column.unit,
        figures=figures,
        change=found.change,
        interval=found.interval,
        movement=movement,
        reason="" if movement == "new" else reason,
        p_holm=p_holm,
        may_be_worse=movement in ("worse", "gone")
        or not (found.no_worse or movement in ("unchanged", "better", "new")),
    )


def _movement_of(then: Any, now: Any) -> Movement:
    """Return `new` or `gone` if only one run has the figure, else `not compared` until the two are compared."""
    if isinstance(then, Missing) == isinstance(now, Missing):
        return "not compared"
    return "new" if isinstance(then, Missing) else "gone"


def _moved(found: Delta, p_holm: float | None, better: Direction) -> Movement:
    if found.interval is None or found.change is None:
        return "not compared"
    clear = excludes_zero(found.interval) and (p_holm is None or p_holm <= 1 - LEVEL)
    improved = (found.change > 0) == (better == "higher")
    if found.same and (p_holm is None or not (clear and improved)):
        return "unchanged"
    if clear:
        return "better" if improved else "worse"
    return "cannot tell"


def _settings(runs: Sequence[Snapshot]) -> Iterable[SettingChange]:
    for variant in dict.fromkeys(name for run in runs for name in run.settings):
        # A variant missing from a run would differ in every setting; its results show that it is new or gone.
        if all(variant in run.settings for run in runs):
            yield from _differing(variant, [run.settings[variant] for run in runs])


def _differing(variant: str, runs: Sequence[Mapping[str, str]]) -> Iterable[SettingChange]:
    for name in dict.fromkeys(name for run in runs for name in run):
        values = tuple(run.get(name) for run in runs)
        if len(set(values)) > 1:
            yield SettingChange(variant=variant, name=name, values=values)
