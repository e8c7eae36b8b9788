"""Accuracy against throughput, each with its 95 % interval; a hollow mark is a speed that is emulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.compare.comparison import THROUGHPUT, Comparison, Row, SpeedCell
from pipeline.compare.decide.frontier import Frontier, Standing
from pipeline.compare.stats.accuracy import Mean
from pipeline.results.records import Family
from pipeline.stages.report.number_format import decimals, number, signed
from pipeline.stages.report.sections.result_cells import claim_symbol
from pipeline.stages.report.vega.label_placement import Box, place
from pipeline.stages.report.vega.spec import (
    INK,
    MUTED,
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
from pipeline.stages.report.vega.styles import FAMILY_COLOURS, FAMILY_SHAPES, described

STANDING = {None: "", "on": "; on the frontier", "off": "; off the frontier", "undecided": "; undecided"}


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
    symbol: str = ""
    standing: Standing | None = None


def quality_points(comparison: Comparison, frontier: Frontier | None = None) -> list[Point]:
    """The variants that have both a throughput and a quality, with their standing on the frontier of the two."""
    standings = {place.name: place.standing for place in frontier.places} if frontier else {}
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
                    f"({number(low, 2)} to {number(high, 2)}){STANDING[standings.get(row.name)]}",
                    symbol=claim_symbol(row),
                    standing=standings.get(row.name),
                )
            )
    return points


def quality_chart(comparison: Comparison, frontiers: Sequence[Frontier] = ()) -> Chart | None:
    """Accuracy against throughput with 95 % intervals; nothing where fewer than two variants have both."""
    points = quality_points(comparison, next((f for f in frontiers if f.cost.name == THROUGHPUT.name), None))
    if len(points) < 2:
        return None
    title = "Accuracy against BF16 (points)" if comparison.baseline else "Mean accuracy (%)"
    key = described({p.family: FAMILY_SHAPES[p.family] for p in points}) + " Hollow: emulated, no speed claim."
    if any(point.standing == "on" for point in points):
        key += " Circled: on the frontier; grey name: off it."
    return Chart(
        "quality", "Accuracy against throughput", key, lambda layout: _scatter(points, comparison, title, layout)
    )


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
            "color": FAMILY_COLOURS[p.family],
            "fill": SURFACE if p.is_emulated else FAMILY_COLOURS[p.family],
            "shape": FAMILY_SHAPES[p.family],
            "text_x": xs[0] + places[i].x / layout.width * (xs[1] - xs[0]),
            "text_y": ys[1] - places[i].y / height * (ys[1] - ys[0]),
            "is_far": places[i].is_far,
            "standing": p.standing or "",
            "ink": MUTED if p.standing == "off" else INK,
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
    text = {"type": "text", "fontSize": layout.font}
    circle = {
        "type": "point",
        "filled": False,
        "shape": "circle",
        "size": 330,
        "color": "var(--accent)",
        "opacity": 1,
        "aria": False,
    }
    halo = {**text, "color": INK, "stroke": SURFACE, "strokeWidth": 3, "strokeJoin": "round"}
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
        {"transform": [{"filter": "datum.standing == 'on'"}], **layer({**circle, "strokeWidth": 2}, encoding, {})},
        layer({"type": "point", "filled": True, "size": 110, "opacity": 1, "strokeWidth": 2}, encoding, mark),
        layer(halo, encoding, {**place_of_text, **name}),
        layer(text, encoding, {**place_of_text, **name, "color": own("ink")}),
    ]
    return {"width": layout.width, "height": height, "data": {"values": rows}, "layer": layers}
