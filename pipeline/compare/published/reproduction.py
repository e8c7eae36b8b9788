"""A published study compared with these results, cell by cell, and a check of the study's arithmetic.

Only results of a model of the study's shape on a GPU of its class are compared (`comparable`). On its very GPU figures
are; on another one of the class only changes against BF16, which transfer better. A published speed comes from a single
run: it agrees if it lies in the prediction interval of one more run of this system (`stats.prediction`). A published
accuracy has the noise of its items, so the two differences from BF16 are compared with each other (`tables`). An
interval that is wider than the published effect agrees with anything: it is too wide to tell.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.published.tables import (
    BASELINE,
    AccuracyTable,
    PrintedCheck,
    Publication,
    PublishedDifference,
    PublishedRow,
    PublishedTable,
    SpeedTable,
    percent_change,
    published_differences,
    recompute,
)
from pipeline.compare.statements import Claim, Sentence, count, listing, plain, signed, within_text
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.prediction import one_more_change, one_more_run
from pipeline.compare.stats.repeats import Change
from pipeline.hardware.gpus import gpu_of
from pipeline.results import metrics
from pipeline.results.base import Frozen, Missing

Agreement = Literal["yes", "no", "too wide to tell"]


class ReproducedCell(Frozen):
    """One published figure with the measured one; changes against BF16 in percent (points for accuracy).

    `ratio` is measured over published, only on the study's model and hardware. `prediction` is the interval of one
    more run, of the figure or the change, whichever is compared; `agrees` is None without an interval to compare with.
    `is_unreliable`: a guard failed while the variant was measured, or BF16 where changes are compared.
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
    prediction: Interval | None = None
    ratio: float | None
    agrees: Agreement | None
    is_unreliable: bool = False


class Reproduction(Frozen):
    """One published table; `basis`: figures on the same GPU, else changes; `why`: reason."""

    table: str
    title: str
    kind: Literal["speed", "accuracy"]
    source: Publication
    hardware: str
    basis: Literal["figures", "changes"]
    why: str
    cells: tuple[ReproducedCell, ...]
    printed: tuple[PrintedCheck, ...]
    differences: tuple[PublishedDifference, ...]
    statements: tuple[Sentence, ...]


def comparable(table: PublishedTable, gpu: str | None, *, is_random: bool) -> bool:
    """Return True if results of a model of the table's shape can be compared with the table.

    Args:
        table: as printed.
        gpu: the catalogue's name of the measured machine, None if it is not in the catalogue.
        is_random: whether the model has random weights, whose answers have no meaning.
    """
    if isinstance(table, AccuracyTable):
        return not is_random
    here, there = (None if name is None else gpu_of(name) for name in (gpu, table.gpu))
    return here is not None and there is not None and here.compute_capability == there.compute_capability


def reproduce(table: PublishedTable, comparison: Comparison, gpu: str | None) -> Reproduction:
    """Compare a published table with these results, of a model of its shape.

    Args:
        table: as printed.
        comparison: the results.
        gpu: the catalogue's name of the measured machine, None if it is not in the catalogue.
    """
    basis, why = _basis(table, gpu)
    rows = {row.name: row for row in comparison.rows}
    cells = []
    for row in table.rows:
        for metric in row.figures or table.baseline.figures:
            cells.append(_cell(table, row, metric, rows, basis))
    printed = recompute(table)
    differences = published_differences(table) if isinstance(table, AccuracyTable) else ()
    return Reproduction(
        table=table.name,
        title=table.title,
        kind=table.kind,
        source=table.source,
        hardware=table.hardware if isinstance(table, SpeedTable) else "",
        basis=basis,
        why=why,
        cells=tuple(cells),
        printed=printed,
        differences=differences,
        statements=(*_slips(printed), *_noise(differences), *_agreement(cells, table.kind)),
    )


def _basis(table: PublishedTable, gpu: str | None) -> tuple[Literal["figures", "changes"], str]:
    if isinstance(table, AccuracyTable):
        return "figures", f"both have the shape of {table.model}; weights, prompts and few-shot examples may differ"
    if gpu == table.gpu:
        return "figures", f"both have the shape of {table.model}, on {table.gpu}; the software may differ"
    return "changes", f"published for {table.hardware}, measured on {gpu or 'other hardware'}"


def _cell(
    table: PublishedTable, row: PublishedRow, metric: str, rows: dict[str, Row], basis: Literal["figures", "changes"]
) -> ReproducedCell:
    published = row.figures.get(metric)
    reference = table.baseline.figures.get(metric)
    change = None
    if published is not None and reference is not None and row is not table.baseline:
        change = published - reference if table.kind == "accuracy" else percent_change(published, reference)
    found = next((rows[name] for name in row.variants if name in rows), None)
    value, around, ours, ours_around = _measured(table, found, metric)
    agrees: Agreement | None = None
    prediction = None
    if published is not None and not isinstance(value, Missing):
        if table.kind == "accuracy":
            agrees = _same_difference(table, row, metric, ours_around)
        else:
            prediction = _prediction(found, rows, metric, basis)
            compared, effect = published if basis == "figures" else change, change
            if basis == "figures" and reference is not None and row is not table.baseline:
                effect = published - reference
            agrees = _agreement_of(prediction, compared, effect)
    same = basis == "figures" and published is not None and not isinstance(value, Missing)
    return ReproducedCell(
        label=row.label,
        variant=None if found is None else found.name,
        metric=metric,
        published=Missing(reason=row.reason) if published is None else published,
        published_change=change,
        measured=value,
        measured_interval=around,
        measured_change=ours,
        measured_change_interval=ours_around,
        prediction=prediction,
        is_unreliable=table.kind == "speed" and _is_unreliable(found, rows, basis),
        ratio=value / published if same and not isinstance(value, Missing) and published else None,
        agrees=agrees,
    )


def _agreement_of(around: Interval | None, value: float | None, effect: float | None) -> Agreement | None:
    """Return whether an interval holds a value; too wide to tell if it is wider than the published effect."""
    if around is None or value is None:
        return None
    if not around.contains(value):
        return "no"
    return "too wide to tell" if effect is not None and around.high - around.low > abs(effect) else "yes"


def _measured(
    table: PublishedTable, row: Row | None, metric: str
) -> tuple[float | Missing, Interval | None, float | None, Interval | None]:
    """Return figure and change with their intervals, in the units of the published table."""
    if row is None:
        return Missing(reason="not among these results"), None, None, None
    if table.kind == "accuracy":
        task = row.tasks.get(metric, Missing(reason=f"{metric} was not scored"))
        if not isinstance(task, TaskCell):
            return task, None, None, None
        paired = task.change if isinstance(task.change, PairedDifference) else None
        return (
            100 * task.accuracy.value,
            _times(100, task.accuracy.interval),
            None if paired is None else 100 * paired.difference,
            None if paired is None else _times(100, paired.interval),
        )
    cell = row.speed.get(metric, Missing(reason=f"the benchmark has no {metric}"))
    if not isinstance(cell, SpeedCell):
        return cell, None, None, None
    change = cell.change if isinstance(cell.change, Change) else None
    return (
        cell.measured.mean,
        cell.measured.interval,
        None if change is None else change.percent,
        None if change is None else change.interval,
    )


def _prediction(
    row: Row | None, rows: dict[str, Row], metric: str, basis: Literal["figures", "changes"]
) -> Interval | None:
    """Return the interval of one more run's figure, or of its change from one more of BF16's."""
    cell = None if row is None else row.speed.get(metric)
    if not isinstance(cell, SpeedCell):
        return None
    if basis == "figures":
        return one_more_run(cell.measured.values)
    baseline = next((other.speed.get(metric) for other in rows.values() if other.is_baseline), None)
    # A change that may not be claimed (another machine, another load) is not compared either.
    if not isinstance(cell.change, Change) or not isinstance(baseline, SpeedCell):
        return None
    return one_more_change(cell.measured.values, baseline.measured.values)


def _is_unreliable(row: Row | None, rows: dict[str, Row], basis: Literal["figures", "changes"]) -> bool:
    """Return True if a guard failed while the variant was measured, or BF16 where changes are compared."""
    baselines = [other for other in rows.values() if other.is_baseline and basis == "changes"]
    return row is not None and any(each.marks for each in (row, *baselines))


def _same_difference(table: PublishedTable, row: PublishedRow, task: str, around: Interval | None) -> Agreement | None:
    """Return whether the two differences from BF16 agree within their combined uncertainty; None if unknown."""
    assert isinstance(table, AccuracyTable)
    theirs = next((d for d in published_differences(table) if (d.label, d.task) == (row.label, task)), None)
    if theirs is None or around is None:
        return None
    centre = (around.low + around.high) / 2
    half = math.hypot(*((each.high - each.low) / 2 for each in (around, theirs.interval)))
    return _agreement_of(Interval(low=centre - half, high=centre + half), theirs.points, theirs.points)


def _slips(printed: tuple[PrintedCheck, ...]) -> list[Sentence]:
    return [
        plain(
            "caveat",
            f"{check.label}: the study prints {signed(check.printed)} % for {_metric_title(check.metric)}, "
            f"its own figures give {signed(check.recomputed)} %.",
        )
        for check in printed
        if check.is_slip
    ]


def _noise(differences: tuple[PublishedDifference, ...]) -> list[Sentence]:
    if not differences:
        return []
    real = [d for d in differences if not d.within_noise]
    text = f"{len(real)} of {len(differences)} published accuracy differences from BF16 are beyond their items' noise"
    named = listing(f"{d.label} on {d.task} ({signed(d.points, 2)} points)" for d in real) if real else ""
    claims = tuple(Claim(variant=d.label, against=BASELINE, column=d.task, interval=d.interval) for d in real)
    return [Sentence(kind="quality", text=f"{text}{f': {named}' if named else ''}.", claims=claims)]


def _agreement(cells: list[ReproducedCell], kind: Literal["speed", "accuracy"]) -> list[Sentence]:
    told = [cell for cell in cells if cell.agrees is not None]
    if not told:
        return []
    counts = Counter(cell.agrees for cell in told)
    what = count(len(told), "published difference" if kind == "accuracy" else "published figure")
    text = f"Of {what}, {counts['yes']} agree, {counts['no']} do not, and {counts['too wide to tell']} cannot be told: "
    text += "the interval measured here is wider than the published effect."
    unreliable = sum(cell.is_unreliable for cell in told)
    return [plain("scope", f"{text}{f' A guard failed for {unreliable} of them.' if unreliable else ''}")]


def _metric_title(metric: str) -> str:
    return within_text(metrics.title(metric))


def _times(factor: float, interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(low=factor * interval.low, high=factor * interval.high)
