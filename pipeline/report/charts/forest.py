"""Each task's accuracy difference from BF16 with its 95 % interval, a panel for each task."""

from __future__ import annotations

from typing import Any

from pipeline.compare.accuracy import PairedDifference
from pipeline.compare.table import Comparison, TaskCell
from pipeline.report.charts.vega import (
    INK,
    MUTED,
    NAMES,
    SURFACE,
    WIDE,
    Chart,
    Layout,
    domain,
    layer,
    own,
    quantity,
    shorten,
)
from pipeline.report.text import signed


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
    tasks = [task for task in comparison.tasks if any(row["task"] == task for row in rows)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    panels = min(layout.panels, len(tasks))
    ends = domain([value for row in rows for value in (row["low"], row["high"])] + [0.0], 0.06)
    names = 165 if layout is WIDE else 128
    width = (layout.width - names) // panels - (22 if panels > 1 else 0) + (40 if panels == 1 else 0)
    drawn = []
    for index, task in enumerate(tasks):
        axis = {**NAMES, "labels": index % panels == 0, "labelLimit": names}
        encoding = {
            "x": quantity("value", domain=ends, axis={"tickCount": 5, "labelFlush": False}),
            "y": {"field": "label", "type": "nominal", "scale": {"domain": labels}, "title": None, "axis": axis},
        }
        ring = {"type": "point", "filled": True, "shape": "circle", "size": 64, "fill": SURFACE, "strokeWidth": 2}
        diamond = {"type": "point", "filled": True, "shape": "diamond", "size": 110}
        hover = {"description": {"field": "hover", "type": "nominal"}}
        layers = [
            {
                "data": {"values": [{"zero": 0}]},
                "mark": {"type": "rule", "color": INK, "strokeWidth": 1},
                "encoding": {"x": quantity("zero", domain=ends)},
            },
            layer(
                {"type": "rule", "strokeWidth": 2},
                encoding,
                {"x": {"field": "low"}, "x2": {"field": "high"}, "color": own("color")},
            ),
            {
                "transform": [{"filter": "datum.kind == 'noise'"}],
                **layer({**ring, "opacity": 1}, encoding, {"stroke": own("color"), **hover}),
            },
            {
                "transform": [{"filter": "datum.kind == 'clear'"}],
                **layer({**diamond, "opacity": 1}, encoding, {"color": own("color"), **hover}),
            },
        ]
        drawn.append(
            {
                "width": width,
                "height": 26 * len(labels),
                "title": {
                    "text": shorten(task, 40),
                    "anchor": "start",
                    "frame": "group",
                    "fontSize": layout.font + 1,
                    "color": INK,
                },
                "data": {"values": [row for row in rows if row["task"] == task]},
                "layer": layers,
            }
        )
    return {"concat": drawn, "columns": panels, "spacing": 22}
