"""What every chart is made of: the two layouts, scales, layers of marks, and the page's look.

Charts are Vega-Lite, written as it is; these are the parts that they share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

INK, MUTED, GRID, SURFACE = "var(--ink)", "var(--muted)", "var(--grid)", "var(--surface)"


@dataclass(frozen=True)
class Layout:
    """How large a drawing is, and how large its text."""

    name: str
    width: int
    font: int
    panels: int


WIDE, NARROW = Layout("wide", 900, 13, 4), Layout("narrow", 290, 11, 1)
LAYOUTS = (WIDE, NARROW)
NAMES: dict[str, Any] = {"ticks": False, "domain": False, "labelPadding": 8, "grid": False}


def quantity(field: str, domain: list[float], title: str | None = None, **more: Any) -> dict[str, Any]:
    """A linear scale over exactly that domain."""
    scale = {"domain": domain, "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **more}


def own(field: str) -> dict[str, Any]:
    """A colour or shape that the row itself states."""
    return {"field": field, "type": "nominal", "scale": None}


def layer(mark: dict[str, Any], encoding: dict[str, Any], more: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A mark on common axes; what it says of a channel is added to what the axes say."""
    return {"mark": mark, "encoding": {**encoding, **{k: {**encoding.get(k, {}), **v} for k, v in more.items()}}}


def domain(values: Iterable[float], margin: float) -> list[float]:
    """A range with room around the values."""
    low, high = min(found := list(values)), max(found)
    room = margin * (high - low) or abs(high) * 0.1 or 1.0
    return [low - room, high + room]


def shorten(label: str, limit: int) -> str:
    """The label, its end cut where it is too long for its place."""
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def finish(chart: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The page's look: no frame, quiet grid, text in the page's colours."""
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
    }
    return {
        **chart,
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "transparent",
        "padding": 4,
        "config": {"font": "sans-serif", "view": {"stroke": None}, "axis": axis, "axisY": {"labelColor": INK}},
    }
