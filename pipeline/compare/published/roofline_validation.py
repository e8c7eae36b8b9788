"""The roofline validated on a published study: the error of its predicted gains.

Every published figure of every table is compared with the roofline's prediction under an assumed load. The gains over
BF16 are compared by their signs, by bias and absolute error in percentage points, and by Spearman's rank correlation
(C. Spearman, Am. J. Psychol. 15, 1904); an improvement counts as a gain whatever the metric. The error stands beside
that of the trivial prediction that no format gains anything: a prediction that does worse is a ranking at best.
Published figures that no schedule of the assumed load could reach are marked: the actual load or cache differed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pipeline.compare.published.tables import SpeedTable
from pipeline.compare.roofline.batching import BatchStep, RooflineLoad, Served, lengths
from pipeline.compare.roofline.device import Device, Footprint
from pipeline.compare.roofline.model import Entry, decode_ms, roofline, step_seconds
from pipeline.compare.statements import within_text
from pipeline.compare.stats.rank_correlation import rank_correlation
from pipeline.results import metrics
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import HEADLINE, THROUGHPUT, TPOT, TTFT

ALL = "all"
FIELDS = {THROUGHPUT.name: "throughput_tok_s", TTFT.name: "mean_ttft_ms", TPOT.name: "mean_tpot_ms"}


class ModelCell(Frozen):
    """One published figure and the predicted one; gains over BF16 in percent, positive is better.

    `bound` is the best that any schedule of the load can reach; `beyond_bound`: the published figure is better.
    """

    table: str
    label: str
    metric: str
    published: float
    predicted: float | Missing
    bound: float | Missing
    published_gain: float | None
    predicted_gain: float | None
    beyond_bound: bool


class ModelError(Frozen):
    """The error of predicted gains of one metric, or of all, in percentage points.

    Attributes:
        metric: its name.
        cells: number of gains.
        same_sign: gains with the sign of the published one.
        too_high: gains above the published one.
        bias: mean of predicted minus published.
        rank_correlation: over all tables; devices differ in it too.
        rank_within: within a table, the mean over tables of three or more gains, weighted by their number.
        median_error: of the absolute differences.
        no_gain_error: the same of the prediction that nothing gains.
        largest_error: of the absolute differences.
        largest: its cell.
    """

    metric: str
    cells: int
    same_sign: int
    too_high: int
    bias: float
    rank_correlation: float | None
    rank_within: float | None
    median_error: float
    no_gain_error: float
    largest_error: float
    largest: str


class RooflineCheck(Frozen):
    """The roofline against all published tables."""

    cells: tuple[ModelCell, ...]
    errors: tuple[ModelError, ...]
    assumptions: tuple[str, ...]


def check(
    tables: Sequence[tuple[SpeedTable, Device]],
    footprints: Mapping[str, Footprint | Missing],
    load: RooflineLoad,
    utilization: float,
    assumptions: Sequence[str],
) -> RooflineCheck:
    """Compare every cell of every table with its prediction.

    Args:
        tables: each with the device that it was measured on.
        footprints: those of the published model, by the variant closest to each row.
        load: the study's load.
        utilization: the share of the memory that its server used.
        assumptions: values assumed for what the study does not state.
    """
    cells = tuple(cell for table, device in tables for cell in _cells(table, device, footprints, load, utilization))
    errors = [_error(name, [c for c in cells if name in (ALL, c.metric)]) for name in (ALL, *FIELDS)]
    return RooflineCheck(cells=cells, errors=tuple(e for e in errors if e), assumptions=tuple(assumptions))


def _cells(
    table: SpeedTable,
    device: Device,
    footprints: Mapping[str, Footprint | Missing],
    load: RooflineLoad,
    utilization: float,
) -> list[ModelCell]:
    rows = [row for row in table.rows if row.figures]
    rows.sort(key=lambda row: row is not table.baseline)
    entries = [Entry(name=r.label, label=r.label, footprint=footprints[r.variants[0]]) for r in rows]
    predicted = {row.name: row.best for row in roofline(device, entries, load, utilization, 1).rows}
    found = []
    for row, entry in zip(rows, entries, strict=True):
        best, reference = predicted[row.label], predicted[table.baseline.label]
        for metric in HEADLINE:
            value = row.figures[metric.name]
            bound = _bound(metric.name, entry.footprint, device, load)
            better = 1 if metric.better == "higher" else -1
            is_gain = row is not table.baseline
            found.append(
                ModelCell(
                    table=table.title,
                    label=row.label,
                    metric=metric.name,
                    published=value,
                    predicted=best if isinstance(best, Missing) else getattr(best, FIELDS[metric.name]),
                    bound=bound,
                    published_gain=better * _percent(value, table.baseline.figures[metric.name]) if is_gain else None,
                    predicted_gain=better * _predicted(best, reference, metric.name)
                    if is_gain and isinstance(best, Served) and isinstance(reference, Served)
                    else None,
                    beyond_bound=not isinstance(bound, Missing) and better * value > better * bound,
                )
            )
    return found


def _bound(metric: str, footprint: Footprint | Missing, device: Device, load: RooflineLoad) -> float | Missing:
    """Return the bound of a metric.

    Throughput: all products at peak speed; TTFT: prompts alone in the order of arrival; TPOT: one sequence alone.
    """
    if isinstance(footprint, Missing):
        return footprint
    if metric == TPOT.name:
        return decode_ms(footprint, device, 1, 0)
    requests, seconds = lengths(load), step_seconds(footprint, device)
    tokens = sum(prompt for prompt, _ in requests)
    pairs = math.fsum(prompt * (prompt + 1) / 2 for prompt, _ in requests)
    prompts = seconds(BatchStep(0, 0, tokens, pairs, 0))
    if metric == TTFT.name:
        # Equal prompts one after another: on average a prompt waits for half of the others and for itself.
        return 1000 * prompts * (len(requests) + 1) / (2 * len(requests))
    outputs = sum(output for _, output in requests)
    total = tokens + outputs
    return total / seconds(BatchStep(0, 0, total, pairs, outputs))


def _error(metric: str, cells: Sequence[ModelCell]) -> ModelError | None:
    pairs = [
        (cell, cell.predicted_gain, cell.published_gain)
        for cell in cells
        if cell.predicted_gain is not None and cell.published_gain is not None
    ]
    if not pairs:
        return None
    titles = {cell.metric: within_text(metrics.title(cell.metric)) for cell, _, _ in pairs}
    errors = [(abs(ours - theirs), f"{c.label} on {c.table}, {titles[c.metric]}") for c, ours, theirs in pairs]
    ours, theirs = [ours for _, ours, _ in pairs], [theirs for _, _, theirs in pairs]
    return ModelError(
        metric=metric,
        cells=len(pairs),
        same_sign=sum(a * b > 0 for a, b in zip(ours, theirs, strict=True)),
        too_high=sum(a > b for a, b in zip(ours, theirs, strict=True)),
        bias=statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True)),
        rank_correlation=rank_correlation(ours, theirs),
        rank_within=_rank_within(pairs),
        median_error=statistics.median(error for error, _ in errors),
        no_gain_error=statistics.median(abs(gain) for gain in theirs),
        largest_error=max(errors)[0],
        largest=max(errors)[1],
    )


def _rank_within(pairs: Sequence[tuple[ModelCell, float, float]]) -> float | None:
    """Return the mean rank correlation within tables and metrics, weighted by their numbers of gains."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell, ours, theirs in pairs:
        groups.setdefault((cell.table, cell.metric), []).append((ours, theirs))
    found = [
        (len(group), rank)
        for group in groups.values()
        if (rank := rank_correlation(*zip(*group, strict=True))) is not None
    ]
    cells = sum(count for count, _ in found)
    return math.fsum(count * rank for count, rank in found) / cells if cells else None


def _predicted(best: Served, reference: Served, metric: str) -> float:
    return _percent(getattr(best, FIELDS[metric]), getattr(reference, FIELDS[metric]))


def _percent(value: float, reference: float) -> float:
    return 100 * (value / reference - 1)
