"""Chart of accuracy against throughput with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.decide.frontier import Frontier, Standing
from pipeline.compare.stats.accuracy import Mean
from pipeline.results.records import Family
from pipeline.stages.report.number_format import decimals, number, signed
from pipeline.stages.report.vega.label_placement import Box, place
from pipeline.stages.report.vega.spec import (
    INK,
    MUTED,
    SURFACE,
    WIDE,
    Chart,
    Layout,
    Records,
    Spec,
    domain,
    from_row,
    layer,
    quantity,
    shorten,
)
from pipeline.stages.report.vega.styles import FAMILY_COLOURS, FAMILY_SHAPES, described

STANDING = {None: "", "on": "; on the frontier", "off": "; off the frontier", "cannot tell": "; cannot tell"}


@dataclass(frozen=True)
class ScatterPoint:
    """One variant of the scatter plot; y is in points against BF16, or in percent without a baseline."""

    label: str
    family: Family
    is_baseline: bool
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    hover: str
    standing: Standing | None = None


def quality_points(comparison: Comparison, frontier: Frontier | None = None) -> list[ScatterPoint]:
    """Return the variants with both throughput and accuracy, with their standing on the frontier of the two."""
    standings = {place.name: place.standing for place in frontier.places} if frontier else {}
    points = []
    for row in comparison.rows:
        cell, quality = row.speed[row.throughput], _quality(row, comparison)
        if isinstance(cell, SpeedCell) and quality is not None:
            x, across = cell.measured.mean, cell.measured.interval
            y, low, high = quality
            unit = "points" if comparison.baseline else "%"
            points.append(
                ScatterPoint(
                    label=row.label,
                    family=row.family,
                    is_baseline=row.is_baseline,
                    x=x,
                    x_low=across.low if across else x,
                    x_high=across.high if across else x,
                    y=y,
                    y_low=low,
                    y_high=high,
                    hover=f"{row.label}: {number(x, decimals([x]))} tok/s{row.per_gpu}, accuracy "
                    f"{signed(y, 2) if comparison.baseline else number(y, 1)} {unit} "
                    f"({number(low, 2)} to {number(high, 2)}){STANDING[standings.get(row.name)]}",
                    standing=standings.get(row.name),
                )
            )
    return points


def quality_chart(comparison: Comparison, frontiers: Sequence[Frontier] = ()) -> Chart | None:
    """Return accuracy against throughput with 95 % intervals; None if fewer than two variants have both."""
    points = quality_points(comparison, next((f for f in frontiers if f.cost.name == comparison.throughput.name), None))
    if len(points) < 2:
        return None
    title = "Accuracy against BF16 (points)" if comparison.baseline else "Mean accuracy (%)"
    key = described({p.family: FAMILY_SHAPES[p.family] for p in points})
    if any(point.standing == "on" for point in points):
        key += " Circled: on the frontier; grey name: off it."
    return Chart("quality", "Accuracy against throughput", key, lambda layout: _scatter(points, title, layout))


def _quality(row: Row, comparison: Comparison) -> tuple[float, float, float] | None:
    """Return the mean difference over the tasks with its interval, zero for the baseline."""
    if comparison.baseline is not None and row.is_baseline:
        return (0.0, 0.0, 0.0)
    quality = row.mean_accuracy if comparison.baseline is None else row.mean_change
    if not isinstance(quality, Mean):
        return None
    y, interval = 100 * quality.value, quality.interval
    return (y, 100 * interval.low, 100 * interval.high) if interval else (y, y, y)


@dataclass(frozen=True)
class Frame:
    """The plot's domains and its size in pixels."""

    xs: list[float]
    ys: list[float]
    width: int
    height: int

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel position of a data point, y downwards."""
        (left, right), (low, high) = self.xs, self.ys
        return ((x - left) / (right - left) * self.width, (high - y) / (high - low) * self.height)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the data point of a pixel position."""
        (left, right), (low, high) = self.xs, self.ys
        return (left + x / self.width * (right - left), high - y / self.height * (high - low))


def _scatter(points: Sequence[ScatterPoint], title: str, layout: Layout) -> Spec:
    xs = domain([v for p in points for v in (p.x_low, p.x_high)], 0.09)
    # Leave room around the data, even if all values are equal.
    ys = domain([v for p in points for v in (p.y_low, p.y_high)], 0.12)
    frame = Frame(xs, ys, layout.width, 400 if layout is WIDE else 340)
    ticks = {"tickCount": 10 if layout is WIDE else 4}
    encoding = {
        "x": quantity("x", domain=xs, title="Throughput (total tokens per second)", axis=ticks),
        "y": quantity("y", domain=ys, title=title),
    }
    rows = _rows(points, frame, layout)
    layers = [*_home(points, encoding), *_marks(encoding), *_labels(encoding, layout)]
    return {"width": frame.width, "height": frame.height, "data": {"values": rows}, "layer": layers}


def _obstacles(points: Sequence[ScatterPoint], frame: Frame) -> list[Box]:
    """Return the interval bars and the baseline's lines, which labels should not cover."""
    boxes = []
    for p in points:
        (left, middle), (right, _) = frame.pixel(p.x_low, p.y), frame.pixel(p.x_high, p.y)
        (centre, top), (_, bottom) = frame.pixel(p.x, p.y_high), frame.pixel(p.x, p.y_low)
        boxes += [Box(left, middle - 2, right, middle + 2), Box(centre - 2, top, centre + 2, bottom)]
    for p in points:
        if p.is_baseline:
            x, y = frame.pixel(p.x, p.y)
            boxes += [Box(0, y - 2, frame.width, y + 2), Box(x - 2, 0, x + 2, frame.height)]
    return boxes


def _rows(points: Sequence[ScatterPoint], frame: Frame, layout: Layout) -> Records:
    spots = [frame.pixel(p.x, p.y) for p in points]
    # Labels are centred; long ones are truncated, the table has the whole names.
    names = [shorten(p.label, 30 if layout is WIDE else 20) for p in points]
    places = place(spots, names, (frame.width, frame.height), layout.font, _obstacles(points, frame))
    rows = []
    for p, name, placed in zip(points, names, places, strict=True):
        text_x, text_y = frame.at(placed.x, placed.y)
        rows.append(
            {
                **{field: getattr(p, field) for field in ("x", "x_low", "x_high", "y", "y_low", "y_high", "hover")},
                "label": name,
                "color": FAMILY_COLOURS[p.family],
                "shape": FAMILY_SHAPES[p.family],
                "text_x": text_x,
                "text_y": text_y,
                "is_far": placed.is_far,
                "standing": p.standing or "",
                "ink": MUTED if p.standing == "off" else INK,
            }
        )
    return rows


def _home(points: Sequence[ScatterPoint], encoding: Spec) -> list[Spec]:
    """Return the dashed lines that cross at the baseline."""
    home = next((p for p in points if p.is_baseline), None)
    if home is None:
        return []
    dashed = {"type": "rule", "color": MUTED, "strokeDash": [4, 4]}
    here = {"values": [{"x": home.x, "y": home.y}]}
    return [{"data": here, "mark": dashed, "encoding": {axis: encoding[axis]}} for axis in ("x", "y")]


def _marks(encoding: Spec) -> list[Spec]:
    """Return leader lines of far labels, intervals, circles of the frontier, and points."""
    leader = {"x": {"field": "x"}, "y": {"field": "y"}, "x2": {"field": "text_x"}, "y2": {"field": "text_y"}}
    across = {"x": {"field": "x_low"}, "x2": {"field": "x_high"}, "color": from_row("color")}
    upright = {"y": {"field": "y_low"}, "y2": {"field": "y_high"}, "color": from_row("color")}
    mark = {
        "fill": from_row("color"),
        "stroke": from_row("color"),
        "shape": from_row("shape"),
        "description": {"field": "hover", "type": "nominal"},
    }
    bar = {"type": "rule", "strokeWidth": 1.6, "opacity": 0.75}
    circle = {"type": "point", "filled": False, "shape": "circle", "size": 330, "color": "var(--accent)", "opacity": 1}
    return [
        {
            "transform": [{"filter": "datum.is_far"}],
            **layer({"type": "rule", "color": MUTED, "strokeWidth": 0.7}, encoding, leader),
        },
        layer(bar, encoding, across),
        layer(bar, encoding, upright),
        {
            "transform": [{"filter": "datum.standing == 'on'"}],
            **layer({**circle, "aria": False, "strokeWidth": 2}, encoding, {}),
        },
        layer({"type": "point", "filled": True, "size": 110, "opacity": 1, "strokeWidth": 2}, encoding, mark),
    ]


def _labels(encoding: Spec, layout: Layout) -> list[Spec]:
    """Return names with a halo in the page's colour."""
    text = {"type": "text", "fontSize": layout.font}
    halo = {**text, "color": INK, "stroke": SURFACE, "strokeWidth": 3, "strokeJoin": "round"}
    name = {"x": {"field": "text_x"}, "y": {"field": "text_y"}, "text": {"field": "label", "type": "nominal"}}
    return [layer(halo, encoding, name), layer(text, encoding, {**name, "color": from_row("ink")})]
