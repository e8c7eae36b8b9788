"""The pictures of the page, wide and narrow: quality against throughput, accuracy by task, and checkpoint sizes.

Colour and shape both say what kind of format a variant is; a hollow mark is a speed that is emulated. Every figure
drawn here stands in a table on the same page. The charts are Vega-Lite, written as it is: building them by way of
Altair takes ten times as long as drawing them, and a test holds them against Altair's schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.compare.accuracy import Mean, PairedDifference
from pipeline.compare.records import Family
from pipeline.compare.table import THROUGHPUT, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.report.placing import Box, place
from pipeline.report.svg import draw
from pipeline.report.text import decimals, number, signed, size_unit
from pipeline.report.vega import (
    INK,
    LAYOUTS,
    MUTED,
    NAMES,
    NARROW,
    SURFACE,
    WIDE,
    Layout,
    domain,
    finish,
    layer,
    own,
    quantity,
    shorten,
)

COLOURS: Mapping[Family, str] = {
    "baseline": "var(--c-baseline)",
    "weights and activations": "var(--c-both)",
    "weights only": "var(--c-weights)",
    "KV cache": "var(--c-kv)",
    "other": "var(--c-other)",
}
SHAPES: Mapping[Family, str] = {
    "baseline": "diamond",
    "weights and activations": "circle",
    "weights only": "triangle-up",
    "KV cache": "square",
    "other": "cross",
}


@dataclass(frozen=True)
class Point:
    """One variant of the scatter plot; the quality is in points against BF16, or in percent without a baseline."""

    label: str
    family: Family
    is_emulated: bool
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    hover: str


def quality_points(comparison: Comparison) -> list[Point]:
    """The variants that have both a throughput and a quality."""
    points = []
    for row in comparison.rows:
        cell, quality = row.speed[THROUGHPUT.name], _quality(row, comparison)
        if isinstance(cell, SpeedCell) and quality is not None:
            x, across = cell.measured.mean, cell.measured.interval
            y, low, high = quality
            claim = "" if row.claims_speed else ", emulated: no speed claim"
            unit = "points" if comparison.baseline else "%"
            points.append(
                Point(
                    label=row.label,
                    family=row.family,
                    is_emulated=not row.claims_speed,
                    x=x,
                    x_low=across.low if across else x,
                    x_high=across.high if across else x,
                    y=y,
                    y_low=low,
                    y_high=high,
                    hover=f"{row.label}: {number(x, decimals([x]))} tok/s{claim}, accuracy "
                    f"{signed(y, 2) if comparison.baseline else number(y, 1)} {unit} "
                    f"({number(low, 2)} to {number(high, 2)})",
                )
            )
    return points


def quality_chart(comparison: Comparison) -> list[str]:
    """Accuracy against throughput with 95 % intervals; nothing where fewer than two variants have both."""
    points = quality_points(comparison)
    if len(points) < 2:
        return []
    title = "Accuracy against BF16 (points)" if comparison.baseline else "Mean accuracy (%)"
    text = "Accuracy against throughput for each variant; the table below it has the figures."
    return [draw(_scatter(points, comparison, title, layout), f"quality-{layout.name}", text) for layout in LAYOUTS]


def _quality(row: Row, comparison: Comparison) -> tuple[float, float, float] | None:
    """Mean difference over the tasks with its interval, zero for the baseline itself."""
    if comparison.baseline is not None and row.is_baseline:
        return (0.0, 0.0, 0.0)
    quality = row.mean_accuracy if comparison.baseline is None else row.mean_change
    if not isinstance(quality, Mean):
        return None
    y, interval = 100 * quality.value, quality.interval
    return (y, 100 * interval.low, 100 * interval.high) if interval else (y, y, y)


def _scatter(points: Sequence[Point], comparison: Comparison, title: str, layout: Layout) -> dict[str, Any]:
    height = 400 if layout is WIDE else 340
    xs = domain([v for p in points for v in (p.x_low, p.x_high)], 0.09)
    # Zero alone would leave a line without room around it.
    ys = domain([v for p in points for v in (p.y_low, p.y_high)], 0.12)

    def pixel(x: float, y: float) -> tuple[float, float]:
        return ((x - xs[0]) / (xs[1] - xs[0]) * layout.width, (ys[1] - y) / (ys[1] - ys[0]) * height)

    bars = []
    for p in points:
        (left, middle), (right, _) = pixel(p.x_low, p.y), pixel(p.x_high, p.y)
        (centre, top), (_, bottom) = pixel(p.x, p.y_high), pixel(p.x, p.y_low)
        bars += [Box(left, middle - 2, right, middle + 2), Box(centre - 2, top, centre + 2, bottom)]
    for p in points:
        if p.family == "baseline":
            x, y = pixel(p.x, p.y)
            bars += [Box(0, y - 2, layout.width, y + 2), Box(x - 2, 0, x + 2, height)]
    spots = [pixel(p.x, p.y) for p in points]
    # Labels are centred on their place; the ends of long ones are cut, the table has them whole.
    names = [shorten(p.label, 30 if layout is WIDE else 20) for p in points]
    places = place(spots, names, (layout.width, height), layout.font, bars)
    rows = [
        {
            **{name: getattr(p, name) for name in ("x", "x_low", "x_high", "y", "y_low", "y_high", "hover")},
            "label": names[i],
            "color": COLOURS[p.family],
            "fill": SURFACE if p.is_emulated else COLOURS[p.family],
            "shape": SHAPES[p.family],
            "text_x": xs[0] + places[i].x / layout.width * (xs[1] - xs[0]),
            "text_y": ys[1] - places[i].y / height * (ys[1] - ys[0]),
            "is_far": places[i].is_far,
        }
        for i, p in enumerate(points)
    ]
    ticks = {"tickCount": 10 if layout is WIDE else 4}
    encoding = {
        "x": quantity("x", domain=xs, title="Throughput (total tokens per second)", axis=ticks),
        "y": quantity("y", domain=ys, title=title),
    }
    place_of_text = {"x": {"field": "text_x"}, "y": {"field": "text_y"}}
    leader = {"x": {"field": "x"}, "y": {"field": "y"}, "x2": {"field": "text_x"}, "y2": {"field": "text_y"}}
    across = {"x": {"field": "x_low"}, "x2": {"field": "x_high"}, "color": own("color")}
    upright = {"y": {"field": "y_low"}, "y2": {"field": "y_high"}, "color": own("color")}
    mark = {
        "fill": own("fill"),
        "stroke": own("color"),
        "shape": own("shape"),
        "description": {"field": "hover", "type": "nominal"},
    }
    text = {"type": "text", "color": INK, "fontSize": layout.font}
    halo = {**text, "stroke": SURFACE, "strokeWidth": 3, "strokeJoin": "round"}
    name = {"text": {"field": "label", "type": "nominal"}}
    layers: list[dict[str, Any]] = []
    home = next((p for p in points if p.family == "baseline"), None)
    if home is not None:
        dashed = {"type": "rule", "color": MUTED, "strokeDash": [4, 4]}
        here = {"values": [{"x": home.x, "y": home.y}]}
        layers += [{"data": here, "mark": dashed, "encoding": {axis: encoding[axis]}} for axis in ("x", "y")]
    layers += [
        {
            "transform": [{"filter": "datum.is_far"}],
            **layer({"type": "rule", "color": MUTED, "strokeWidth": 0.7}, encoding, leader),
        },
        layer({"type": "rule", "strokeWidth": 1.6, "opacity": 0.75}, encoding, across),
        layer({"type": "rule", "strokeWidth": 1.6, "opacity": 0.75}, encoding, upright),
        layer({"type": "point", "filled": True, "size": 110, "opacity": 1, "strokeWidth": 2}, encoding, mark),
        layer(halo, encoding, {**place_of_text, **name}),
        layer(text, encoding, {**place_of_text, **name}),
    ]
    return finish({"width": layout.width, "height": height, "data": {"values": rows}, "layer": layers}, layout)


def forest_chart(comparison: Comparison) -> list[str]:
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
        return []
    text = "Accuracy difference from BF16 for each task and variant; the table below it has the figures."
    return [draw(_forest(rows, comparison, layout), f"forest-{layout.name}", text) for layout in LAYOUTS]


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
    return finish({"concat": drawn, "columns": panels, "spacing": 22}, layout)


def size_chart(comparison: Comparison) -> list[str]:
    """Checkpoint sizes as bars, in the order of the table."""
    cells = [(row, row.size) for row in comparison.rows if isinstance(row.size, SizeCell)]
    if not cells:
        return []
    unit, scale = size_unit(cell.bytes for _, cell in cells)
    digits = min(2, decimals(cell.bytes / scale for _, cell in cells))
    rows = [
        {
            "label": row.label,
            "value": cell.bytes / scale,
            "color": COLOURS[row.family],
            "text": f"{number(cell.bytes / scale, digits)} {unit}"
            + (f" · {cell.ratio:.2f}×" if isinstance(cell.ratio, float) else ""),
        }
        for row, cell in cells
    ]
    text = "Checkpoint size of each variant; the table below it has the figures."
    return [draw(_bars(rows, unit, layout), f"size-{layout.name}", text) for layout in LAYOUTS]


def _bars(rows: list[dict[str, Any]], unit: str, layout: Layout) -> dict[str, Any]:
    names = 165 if layout is WIDE else 128
    labels = [row["label"] for row in rows]
    # The longest bar leaves room for its text.
    room = 1.2 if layout is WIDE else 1.85
    encoding = {
        "x": quantity("value", domain=[0, room * max(row["value"] for row in rows)], axis=None),
        "y": {
            "field": "label",
            "type": "nominal",
            "scale": {"domain": labels},
            "title": None,
            "axis": {**NAMES, "labelLimit": names},
        },
    }
    text = {"type": "text", "align": "left", "dx": 7, "color": INK, "fontSize": layout.font}
    layers = [
        layer({"type": "bar", "height": 15, "cornerRadiusEnd": 3}, encoding, {"color": own("color")}),
        layer(text, encoding, {"text": {"field": "text", "type": "nominal"}}),
    ]
    width = layout.width - names + (40 if layout is NARROW else 0)
    return finish(
        {"width": width, "height": 28 * len(rows), "data": {"values": rows}, "layer": layers},
        layout,
    )
