"""Checkpoint sizes as bars."""

from __future__ import annotations

from typing import Any

from pipeline.compare.comparison import Comparison, SizeCell
from pipeline.stages.report.number_format import decimals, number, size_unit
from pipeline.stages.report.vega.spec import INK, NAMES, NARROW, WIDE, Chart, Layout, layer, own, quantity
from pipeline.stages.report.vega.styles import FAMILY_COLOURS


def size_chart(comparison: Comparison) -> Chart | None:
    """Checkpoint sizes as bars, in the order of the table."""
    cells = [(row, row.size) for row in comparison.rows if isinstance(row.size, SizeCell)]
    if not cells:
        return None
    unit, scale = size_unit(cell.bytes for _, cell in cells)
    digits = min(2, decimals(cell.bytes / scale for _, cell in cells))
    rows = [
        {
            "label": row.label,
            "value": cell.bytes / scale,
            "color": FAMILY_COLOURS[row.family],
            "text": f"{number(cell.bytes / scale, digits)} {unit}"
            + (f" · {cell.ratio:.2f}×" if isinstance(cell.ratio, float) else ""),
        }
        for row, cell in cells
    ]
    return Chart.of(
        "size", "Checkpoint size", "Beside each bar its ratio to BF16.", lambda layout: _bars(rows, unit, layout)
    )


def _bars(rows: list[dict[str, Any]], unit: str, layout: Layout) -> dict[str, Any]:
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
            "axis": {**NAMES, "labelLimit": layout.names},
        },
    }
    text = {"type": "text", "align": "left", "dx": 7, "color": INK, "fontSize": layout.font}
    layers = [
        layer({"type": "bar", "height": 15, "cornerRadiusEnd": 3}, encoding, {"color": own("color")}),
        layer(text, encoding, {"text": {"field": "text", "type": "nominal"}}),
    ]
    width = layout.width - layout.names + (40 if layout is NARROW else 0)
    return {"width": width, "height": 28 * len(rows), "data": {"values": rows}, "layer": layers}
