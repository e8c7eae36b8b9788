"""Accuracy against BF16, task by task, and the divergence from BF16 on held-out text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.compare.comparison import Comparison, Row, TaskCell
from pipeline.compare.stats.accuracy import Mean, PairedDifference
from pipeline.compare.stats.kl_divergence import Estimate
from pipeline.compare.stats.noninferiority import points
from pipeline.results.base import Missing
from pipeline.stages.report.blocks import Block, Details, Picture, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import format_interval, number, signed
from pipeline.stages.report.sections.result_cells import divergence_scale
from pipeline.stages.report.vega.panels import Strip, diamond, interval, line_at, ring, strips
from pipeline.stages.report.vega.spec import MUTED, Chart, Layout, Records, Spec, domain, quantity


def section(report: Report) -> Section | None:
    """Return the differences from BF16, then the divergence if it was measured."""
    comparison = report.comparison
    if not comparison.is_measured:
        return None
    tasks, divergence = task_table(comparison), divergence_table(comparison)
    blocks: list[Block] = []
    if chart := forest_chart(comparison):
        blocks.append(
            lead(
                "Difference in points on the same items, with its 95 % interval. Filled diamond: a gain or a loss is "
                "shown, corrected for all comparisons of the table; red: a loss of more than the margin. Ring: neither."
            )
        )
        blocks.append(Picture(chart, [tasks]))
    else:
        blocks.append(Prose("n/a: no variant has scores that can be paired with BF16's.", "empty"))
        blocks += [Details("Why", [tasks])] if tasks.rows else []
    if divergence.rows:
        blocks.append(Details("KL divergence, agreement and perplexity against BF16", [divergence]))
    return Section("accuracy", "Accuracy against BF16, task by task", "Accuracy", blocks)


def forest_chart(comparison: Comparison) -> Chart | None:
    """Return each task's accuracy difference from BF16 with its interval, one panel per task."""
    rows = [
        {
            "row": row.name,
            "label": row.label,
            "task": task,
            "value": 100 * change.difference,
            "low": 100 * change.interval.low,
            "high": 100 * change.interval.high,
            "kind": "clear" if _is_shown(cell) else "noise",
            "color": _verdict_colour(cell),
            "hover": f"{row.label}, {task}: {signed(100 * change.difference)} points "
            f"({signed(100 * change.interval.low)} to {signed(100 * change.interval.high)})",
        }
        for row in comparison.rows
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(change := cell.change, PairedDifference) and change.interval
    ]
    if not rows:
        return None
    key = "Points on the same items with 95 % intervals. Diamond: a difference is shown; ring: none is."
    return Chart("forest", "Accuracy against BF16, task by task", key, lambda layout: _forest(rows, comparison, layout))


def _is_shown(cell: TaskCell) -> bool:
    return cell.is_loss or cell.is_lower or cell.is_gain


def _verdict_colour(cell: TaskCell) -> str:
    if cell.is_gain:
        return "var(--c-gain)"
    return "var(--c-loss)" if cell.is_loss else MUTED


def _forest(rows: Records, comparison: Comparison, layout: Layout) -> Spec:
    extent = domain([value for row in rows for value in (row["low"], row["high"])] + [0.0], 0.06)
    x = quantity("value", domain=extent, axis={"tickCount": 5, "labelFlush": False})
    layers = [line_at(0), interval(), ring("datum.kind == 'noise'"), diamond("datum.kind == 'clear'")]
    panels = [
        Strip(task, [row for row in rows if row["task"] == task], x, layers)
        for task in comparison.tasks
        if any(row["task"] == task for row in rows)
    ]
    return strips(panels, list(dict.fromkeys(row["label"] for row in rows)), layout)


def task_table(comparison: Comparison) -> Table:
    """Return each accuracy with its interval, and each difference with its evidence."""
    rows = []
    for row in comparison.rows:
        for task, cell in row.tasks.items():
            if isinstance(cell, TaskCell):
                share, change = cell.accuracy, cell.change
                figures = (_percent(share.value), format_interval(share.interval, _percent))
                loss = "" if isinstance(cell.loss, Missing) else cell.loss.text
                difference = _difference(change, row.is_baseline, _is_shown(cell))
                rows.append((row.label, task, *figures, *difference, f"{share.n:,}", loss))
        if isinstance(row.mean_accuracy, Mean) and len(row.tasks) > 1:
            mean = row.mean_accuracy
            figures = (_percent(mean.value), format_interval(mean.interval, _percent))
            rows.append((row.label, "mean", *figures, *_mean_change(row), "", _mean_loss(row)))
    head = ("Variant", "Task", "Accuracy (%)", "95 %", "Difference (points)", "95 %", "95 %, bootstrap")
    evidence = ("Difference shown", "Only here / only BF16", "p", "Items", "Loss")
    return Table((*head, *evidence), rows, "Accuracy differences")


def _difference(change: PairedDifference | Missing, is_baseline: bool, is_shown: bool) -> tuple[str, ...]:
    if isinstance(change, Missing):
        return ("baseline" if is_baseline else f"n/a: {change.reason}", "", "", "", "", "")
    return (
        _points(change.difference),
        format_interval(change.interval, _points),
        format_interval(change.bootstrap, _points),
        "yes" if is_shown else "no",
        f"{change.gained} / {change.lost}",
        "< 0.001" if change.p_value < 0.001 else f"{change.p_value:.3f}",
    )


def _mean_change(row: Row) -> tuple[str, ...]:
    mean = row.mean_change
    if isinstance(mean, Missing):
        return ("baseline" if row.is_baseline else f"n/a: {mean.reason}", "", "", "", "", "")
    return (_points(mean.value), format_interval(mean.interval, _points), "", "", "", "")


def _mean_loss(row: Row) -> str:
    loss = row.mean_loss
    if isinstance(loss, Missing):
        return ""
    return f"{'no worse' if loss.is_within else 'cannot tell'} (within {points(loss.margin)})"


def divergence_table(comparison: Comparison) -> Table:
    """Return every figure of the divergence on held-out text, with its interval."""
    unit, scale, digits = divergence_scale(comparison)

    def kl(value: float) -> str:
        return number(value / scale, digits)

    def pair(figure: Estimate, show: Callable[[float], str]) -> tuple[str, str]:
        return show(figure.value), format_interval(figure.interval, show)

    rows = []
    for row in comparison.rows:
        if row.perplexity is None:
            continue
        label, cell = f"{row.label}, repeated" if row.is_baseline else row.label, row.divergence
        if isinstance(cell, Missing):
            rows.append((row.label, f"n/a: {cell.reason}", *[""] * 12, number(row.perplexity, 3)))
            continue
        quarters = [kl(figure.value) for figure in cell.by_position] or ["n/a"] * 4
        worst = "n/a" if cell.worst_share is None else number(100 * cell.worst_share, 1)
        ratio = partial(number, digits=4)
        figures = (*pair(cell.kl, kl), *pair(cell.agreement, _percent), *pair(cell.perplexity_ratio, ratio))
        held = "n/a" if cell.top_probability is None else number(100 * cell.top_probability, 2)
        rows.append((label, *figures, *quarters, worst, held, f"{cell.tokens:,}", number(row.perplexity, 3)))
    quarters = [f"{name} quarter" for name in ("First", "Second", "Third", "Last")]
    head = ("Variant", f"KL ({unit})", "95 %", "Same top token (%)", "95 %", "Perplexity ratio", "95 %", *quarters)
    held = "Probability of the likeliest tokens (%)"
    tail = ("In the worst 1 % of tokens (%)", held, "Tokens", "Perplexity")
    return Table((*head, *tail), rows, "KL divergence from BF16")


def _percent(share: float) -> str:
    return number(100 * share, 2)


def _points(difference: float) -> str:
    return signed(100 * difference, 2)
