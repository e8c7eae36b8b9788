"""The tables beneath the charts: every figure that is drawn, as text in rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.engine_agreement import Engines
from pipeline.compare.stats.accuracy import Mean, PairedDifference
from pipeline.compare.stats.kl_divergence import Estimate
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.text import clean
from pipeline.stages.report.charts.quality import quality_points
from pipeline.stages.report.number_format import decimals, ends, number, signed
from pipeline.stages.report.tables.study import Table, divergence_scale

ABBREVIATIONS = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True)
class Twin:
    """A small table; the first column is text, the others are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quality_figures(comparison: Comparison) -> Twin:
    """What the scatter plot shows."""
    points = quality_points(comparison)
    digits = decimals(point.x for point in points)
    rows = []
    for p in points:
        speed = f"{number(p.x, digits)}{' (emulated: no speed claim)' if p.is_emulated else ''}"
        across = f"{number(p.x_low, digits)} to {number(p.x_high, digits)}" if p.x_low < p.x_high else "n/a"
        show = partial(signed if comparison.baseline else number, digits=2)
        quality = "baseline" if p.family == "baseline" else show(p.y)
        down = f"{show(p.y_low)} to {show(p.y_high)}" if p.y_low < p.y_high else "n/a"
        rows.append((p.label, speed, across, quality, down))
    quality = "Accuracy against BF16 (points, mean of tasks)" if comparison.baseline else "Mean accuracy (%)"
    return Twin(("Variant", "Throughput (tok/s)", "95 %", quality, "95 %"), tuple(rows))


def task_figures(table: Table) -> Twin:
    """Each accuracy with its interval, and what the forest plot shows with the evidence for each difference."""
    rows = []
    for row in table.comparison.rows:
        for task, cell in row.tasks.items():
            if isinstance(cell, TaskCell):
                share, change = cell.accuracy, cell.change
                figures = (_percent(share.value), ends(share.interval, _percent))
                loss = "" if isinstance(cell.loss, Missing) else cell.loss.text
                rows.append((row.label, task, *figures, *_difference(change, row.is_baseline), f"{share.n:,}", loss))
        if isinstance(row.mean_accuracy, Mean) and len(row.tasks) > 1:
            mean = row.mean_accuracy
            figures = (_percent(mean.value), ends(mean.interval, _percent))
            rows.append((row.label, "mean", *figures, *_mean_change(row), "", ""))
    head = ("Variant", "Task", "Accuracy (%)", "95 %", "Difference (points)", "95 %", "95 %, bootstrap")
    return Twin((*head, "Within noise", "Only here / only BF16", "p", "Items", "Loss"), tuple(rows))


def _difference(change: PairedDifference | Missing, is_baseline: bool) -> tuple[str, ...]:
    if isinstance(change, Missing):
        return ("baseline" if is_baseline else f"n/a: {change.reason}", "", "", "", "", "")
    return (
        _points(change.difference),
        ends(change.interval, _points),
        ends(change.bootstrap, _points),
        "yes" if change.within_noise else "no",
        f"{change.gained} / {change.lost}",
        "< 0.001" if change.p_value < 0.001 else f"{change.p_value:.3f}",
    )


def _mean_change(row: Row) -> tuple[str, ...]:
    mean = row.mean_change
    if isinstance(mean, Missing):
        return ("baseline" if row.is_baseline else f"n/a: {mean.reason}", "", "", "", "", "")
    noise = "n/a" if mean.interval is None else "yes" if mean.interval.contains(0.0) else "no"
    return (_points(mean.value), ends(mean.interval, _points), "", noise, "", "")


def divergence_figures(comparison: Comparison) -> Twin:
    """What the log-probabilities of held-out text say: every figure of the divergence with its interval."""
    unit, scale, digits = divergence_scale(comparison)

    def kl(value: float) -> str:
        return number(value / scale, digits)

    def pair(figure: Estimate, show: Callable[[float], str]) -> tuple[str, str]:
        return show(figure.value), ends(figure.interval, show)

    rows = []
    for row in comparison.rows:
        if row.perplexity is None:
            continue
        label, cell = f"{row.label}, asked again" if row.is_baseline else row.label, row.divergence
        if isinstance(cell, Missing):
            rows.append((row.label, f"n/a: {cell.reason}", *[""] * 11, number(row.perplexity, 3)))
            continue
        quarters = [kl(figure.value) for figure in cell.by_position] or ["n/a"] * 4
        worst = "n/a" if cell.worst_share is None else number(100 * cell.worst_share, 1)
        ratio = partial(number, digits=4)
        figures = (*pair(cell.kl, kl), *pair(cell.agreement, _percent), *pair(cell.perplexity_ratio, ratio))
        rows.append((label, *figures, *quarters, worst, f"{cell.tokens:,}", number(row.perplexity, 3)))
    quarters = [f"{name} quarter" for name in ("First", "Second", "Third", "Last")]
    head = ("Variant", f"KL ({unit})", "95 %", "Same top token (%)", "95 %", "Perplexity ratio", "95 %", *quarters)
    return Twin((*head, "In the worst 1 % of tokens (%)", "Tokens", "Perplexity"), tuple(rows))


def engine_figures(engines: Engines) -> Twin:
    """Whether the engines of one format agree."""
    rows = [
        (
            row.label,
            row.engine,
            row.algorithm,
            number(row.mean, 4),
            "n/a" if row.ratio is None else number(row.ratio, 3),
            {None: "n/a", True: "yes", False: "no"}[row.agrees],
            f"{number(row.worst, 4)} ({row.worst_module})",
            "n/a" if row.distance is None else number(row.distance, 4),
        )
        for row in engines.rows
    ]
    head = ("Variant", "Engine", "Algorithm", "Weight error", "Of the best of its algorithm", "Within 10 %")
    return Twin((*head, "Worst layer", "Log-probabilities from BF16's"), tuple(rows))


def size_figures(table: Table) -> Twin:
    """What the bars show."""
    index = next(i for i, column in enumerate(table.columns) if column.kind == "size")
    rows = [
        (row.label, cell.value or f"n/a: {cell.missing}", cell.change or "n/a", cell.evidence)
        for row in table.rows
        for cell in (row.cells[index],)
    ]
    return Twin(("Variant", f"Checkpoint ({table.columns[index].unit})", "Of BF16", "Exactly"), tuple(rows))


def every_metric(comparison: Comparison) -> list[tuple[str, Twin]]:
    """Every metric of the benchmark for each variant: mean, interval and range over the repeats, and the change."""
    found = []
    for name in dict.fromkeys(name for row in comparison.rows for name in row.details):
        cells = [(row, cell) for row in comparison.rows if isinstance(cell := row.details.get(name), SpeedCell)]
        if not cells:
            continue
        unit, digits = cells[0][1].measured.unit, decimals(cell.measured.mean for _, cell in cells)
        rows = []
        for row, cell in cells:
            measured, change = cell.measured, cell.change
            # A figure in another unit would not belong under this heading.
            if measured.unit == unit:
                mean = number(measured.mean, digits) + ("" if row.claims_speed else " (emulated: no speed claim)")
                inside = (ends(each, partial(number, digits=digits)) for each in (measured.interval, measured.spread))
                against = f"{signed(change.percent)} %" if isinstance(change, Change) else ""
                around = f"{ends(change.interval, signed)} %" if isinstance(change, Change) and change.interval else ""
                rows.append((row.label, mean, *inside, str(len(measured.values)), against, around))
        head = ("Variant", f"Mean ({unit})", "95 %", "Range", "Repeats", "Against BF16", "95 %")
        found.append((_title(name), Twin(head, tuple(rows))))
    capacity = tuple((r.label, f"{r.kv_cache_tokens:,}") for r in comparison.rows if r.kv_cache_tokens is not None)
    return [*found, ("KV-cache capacity", Twin(("Variant", "Tokens"), capacity))] if capacity else found


def _title(name: str) -> str:
    """A metric's name as people write it: `p99_ttft_ms` is P99 TTFT."""
    words = [word.upper() if word in ABBREVIATIONS else word for word in name.removesuffix("_ms").split("_")]
    return clean(" ".join(words)[:1].upper() + " ".join(words)[1:], 60)


def _percent(share: float) -> str:
    return number(100 * share, 2)


def _points(difference: float) -> str:
    return signed(100 * difference, 2)
