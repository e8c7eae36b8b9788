"""Panels of horizontal strips, one per variant, in the same order in every panel, with the names at the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.stages.report.vega.spec import INK, NAMES, SURFACE, Layout, Records, Spec, from_row, heading

STEP = 26


@dataclass(frozen=True)
class Strip:
    """One panel: rows with a `label`, and `layers` that draw them on the axes `x` and `y`, the names."""

    title: str
    rows: Records
    x: Spec
    layers: Sequence[Spec]
    below: str = ""


def strips(panels: Sequence[Strip], labels: Sequence[str], layout: Layout, most: int | None = None) -> Spec:
    """Return the panels side by side, at most `most` per line."""
    columns = min(most or layout.panels, layout.panels, len(panels))
    width = strip_width(layout, columns)
    drawn = []
    for index, panel in enumerate(panels):
        axis = {**NAMES, "labels": index % columns == 0, "labelLimit": layout.names}
        y = {"field": "label", "type": "nominal", "scale": {"domain": list(labels)}, "title": None, "axis": axis}
        layers = [
            # A mark that spans all names has no y.
            {**each, "encoding": _on(each["encoding"], {"x": panel.x} if each.get("spans") else {"x": panel.x, "y": y})}
            for each in panel.layers
        ]
        for each in layers:
            each.pop("spans", None)
        drawn.append(
            {
                "width": width,
                "height": STEP * len(labels),
                **({"title": heading(panel.title, panel.below, layout, width)} if panel.title else {}),
                "data": {"values": list(panel.rows)},
                "layer": layers,
            }
        )
    return {"concat": drawn, "columns": columns, "spacing": 22}


def _on(channels: Spec, axes: dict[str, Spec]) -> Spec:
    """Merge the channels of a mark into the axes."""
    return {**axes, **channels, **{name: {**axis, **channels.get(name, {})} for name, axis in axes.items()}}


def strip_width(layout: Layout, columns: int) -> int:
    """Return the width of one panel in a line of that many."""
    if columns == 1:
        return layout.width - layout.names + 40
    return (layout.width - layout.names) // columns - 22


def mark(kind: Spec, only: str = "", **channels: Any) -> Spec:
    """Return a mark for each row that meets the condition `only`."""
    condition = {"transform": [{"filter": only}]} if only else {}
    return {**condition, "mark": kind, "encoding": channels}


def line_at(value: float, **style: Any) -> Spec:
    """Return a vertical line through all names."""
    return {
        "spans": True,
        "data": {"values": [{"at": value}]},
        "mark": {"type": "rule", "color": INK, "strokeWidth": 1, **style},
        "encoding": {"x": {"field": "at"}},
    }


def hover() -> Spec:
    """Return the hover text of a mark, from the row's `hover`."""
    return {"field": "hover", "type": "nominal"}


def interval(only: str = "", width: float = 2) -> Spec:
    """Return a bar from `low` to `high` in the row's colour."""
    bar = {"type": "rule", "strokeWidth": width}
    return mark(bar, only, x={"field": "low"}, x2={"field": "high"}, color=from_row("color"))


def ring(only: str = "", size: float = 64) -> Spec:
    """Return a hollow mark at `value`."""
    kind = {"type": "point", "filled": True, "shape": "circle", "size": size, "fill": SURFACE, "strokeWidth": 2}
    return mark({**kind, "opacity": 1}, only, stroke=from_row("color"), description=hover())


def diamond(only: str = "", size: float = 110) -> Spec:
    """Return a filled mark at `value`."""
    kind = {"type": "point", "filled": True, "shape": "diamond", "size": size, "opacity": 1}
    return mark(kind, only, color=from_row("color"), description=hover())
