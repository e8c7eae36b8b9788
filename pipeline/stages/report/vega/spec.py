"""Shared parts of charts: the two layouts, scales, layers of marks, and the page's style.

Charts are plain Vega-Lite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

INK, MUTED, GRID, SURFACE = "var(--ink)", "var(--muted)", "var(--grid)", "var(--surface)"


@dataclass(frozen=True)
class Layout:
    """The size of a drawing and of its text, the number of panels side by side, and the width of names."""

    name: str
    width: int
    font: int
    panels: int
    names: int


WIDE, NARROW = Layout("wide", 1080, 13, 4, 190), Layout("narrow", 290, 11, 1, 128)
LAYOUTS = (WIDE, NARROW)


@dataclass(frozen=True)
class Chart:
    """A chart specification.

    Attributes:
        name: used in file names and ids.
        title: its heading outside the page.
        key: its legend outside the page.
        spec: returns its Vega-Lite for a layout.
    """

    name: str
    title: str
    key: str
    spec: Callable[[Layout], Spec]

    @cached_property
    def specs(self) -> dict[str, Spec]:
        """Its Vega-Lite for each layout, by the layout's name."""
        return {layout.name: finish(self.spec(layout), layout) for layout in LAYOUTS}


# A Vega-Lite specification, or a part of one; tests check whole ones against Vega-Lite's schema.
Spec = dict[str, Any]
# The data of a chart: a record for each mark.
Records = list[dict[str, Any]]

NAMES: Spec = {"ticks": False, "domain": False, "labelPadding": 8, "grid": False}


def quantity(field: str, domain: list[float], title: str | None = None, **more: Any) -> Spec:
    """Return a linear scale over exactly that domain."""
    scale = {"domain": domain, "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **more}


def from_row(field: str) -> Spec:
    """Return a channel with the row's value of `field`, a colour or shape."""
    return {"field": field, "type": "nominal", "scale": None}


def layer(mark: Spec, encoding: Spec, more: dict[str, Spec]) -> Spec:
    """Return a mark on common axes; `more` is merged into the channels of the axes."""
    return {"mark": mark, "encoding": {**encoding, **{k: {**encoding.get(k, {}), **v} for k, v in more.items()}}}


def domain(values: Iterable[float], margin: float) -> list[float]:
    """Return a range with room around the values."""
    low, high = min(found := list(values)), max(found)
    room = margin * (high - low) or abs(high) * 0.1 or 1.0
    return [low - room, high + room]


def shorten(label: str, limit: int) -> str:
    """Truncate a label to `limit` characters."""
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def finish(chart: Spec, layout: Layout) -> Spec:
    """Apply the page's style to a chart: no frame, light grid, text in the page's colours."""
    axis = {
        "labelFontSize": layout.font,
        "titleFontSize": layout.font,
        "titleFontWeight": "normal",
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "titlePadding": 10,
        # Labels that touch read as one number.
        "labelOverlap": "greedy",
        "labelSeparation": 8,
    }
    return {
        **chart,
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "transparent",
        "padding": 4,
        "config": {"font": "sans-serif", "view": {"stroke": None}, "axis": axis, "axisY": {"labelColor": INK}},
    }


def decades(low: float, high: float, most: int) -> list[float]:
    """Return the labels of a logarithmic axis: powers of ten, with steps of 1, 2, 5 for short axes."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**p for p in range(first, last + 1) if low <= 10.0**p <= high]
    if len(powers) > most:
        return powers[:: math.ceil(len(powers) / most)]
    if len(powers) >= 3:
        return powers
    steps = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
    sets = [[m * 10.0**p for p in range(first, last + 1) for m in each if low <= m * 10.0**p <= high] for each in steps]
    finer = next((each for each in sets if len(each) >= 3), sets[0])
    if len(finer) < 2:
        return powers or finer
    return finer[:: math.ceil(len(finer) / most)]


def logarithmic(
    field: str, values: Sequence[float], title: str | None = None, margin: float = 1.25, most: int = 7, **more: Any
) -> Spec:
    """Return a logarithmic scale around values above zero, with labels by `decades`."""
    extent = [min(values) / margin, max(values) * margin]
    ticks = {"values": decades(extent[0], extent[1], most), "format": ",~g", **more.pop("axis", {})}
    return {**quantity(field, domain=extent, title=title, axis=ticks, **more), **log_scale(extent)}


def log_scale(extent: Sequence[float]) -> Spec:
    """Return only the scale of a logarithmic axis."""
    return {"scale": {"type": "log", "domain": list(extent), "nice": False, "zero": False}}


def heading(text: str, below: str, layout: Layout, width: int) -> Spec:
    """Return a panel's heading, truncated to its width."""
    characters = int(width / layout.font / 0.6)
    return {
        "text": shorten(text, characters),
        **({"subtitle": shorten(below, int(1.3 * characters))} if below else {}),
        "anchor": "start",
        "frame": "group",
        "fontSize": layout.font,
        "subtitleFontSize": layout.font - 1.5,
        "color": INK,
        "subtitleColor": MUTED,
    }
