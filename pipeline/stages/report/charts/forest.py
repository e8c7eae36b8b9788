"""Each task's accuracy difference from BF16 with its 95 % interval, a panel for each task."""

from __future__ import annotations

from typing import Any

from pipeline.compare.comparison import Comparison, TaskCell
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.stages.report.number_format import signed
from pipeline.stages.report.vega.panels import Strip, diamond, interval, line_at, ring, strips
from pipeline.stages.report.vega.spec import MUTED, Chart, Layout, domain, quantity


def forest_chart(comparison: Comparison) -> Chart | None:
    """Each task's accuracy difference from BF16 with its interval, a panel for each task."""
    rows = [
        {
            "row": row.name,
            "label": row.label,
            "task": task,
            "value": 100 * change.difference,
            "low": 100 * change.interval.low,
            "high": 100 * change.interval.high,
            "kind": "clear" if change.is_clear else "noise",
            "color": _verdict_colour(change),
            "hover": f"{row.label}, {task}: {signed(100 * change.difference)} points "
            f"({signed(100 * change.interval.low)} to {signed(100 * change.interval.high)})",
        }
        for row in comparison.rows
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(change := cell.change, PairedDifference) and change.interval
    ]
    if not rows:
        return None
    key = "Points on the same items with 95 % intervals. Ring: within noise; diamond: not."
    return Chart.of(
        "forest", "Accuracy against BF16, task by task", key, lambda layout: _forest(rows, comparison, layout)
    )


def _verdict_colour(change: PairedDifference) -> str:
    if not change.is_clear:
        return MUTED
    return "var(--c-gain)" if change.difference > 0 else "var(--c-loss)"


def _forest(rows: list[dict[str, Any]], comparison: Comparison, layout: Layout) -> dict[str, Any]:
    ends = domain([value for row in rows for value in (row["low"], row["high"])] + [0.0], 0.06)
    x = quantity("value", domain=ends, axis={"tickCount": 5, "labelFlush": False})
    layers = [line_at(0), interval(), ring("datum.kind == 'noise'"), diamond("datum.kind == 'clear'")]
    panels = [
        Strip(task, [row for row in rows if row["task"] == task], x, layers)
        for task in comparison.tasks
        if any(row["task"] == task for row in rows)
    ]
    return strips(panels, list(dict.fromkeys(row["label"] for row in rows)), layout)
