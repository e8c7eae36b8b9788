"""Lengths of the conversations of a calibration set."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.results.calibration import Lengths
from pipeline.stages.report.blocks import PAGE, Block, Heading, Picture, Table
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.vega.spec import INK, SURFACE, WIDE, Chart, Layout, Records, Spec, layer, quantity

TITLE = "Lengths of the conversations"


def length_blocks(lengths: Lengths, name: str) -> Iterator[Block]:
    """Yield the histogram; nothing if no lengths are recorded."""
    if chart := length_chart(lengths, name):
        yield Heading(TITLE, media=PAGE)
        yield Picture(chart, [length_table(lengths)], media=PAGE)


def length_chart(lengths: Lengths, name: str) -> Chart | None:
    """Return a histogram of the lengths."""
    if not any(lengths.counts):
        return None
    bins = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    rows = [
        {"low": low, "high": high, "count": count, "hover": f"{figure(low)} to {figure(high)} tokens: {count:,}"}
        for low, high, count in bins
    ]
    return Chart(
        name, "Lengths of the conversations of the calibration set", "", lambda layout: _lengths(rows, lengths, layout)
    )


def _lengths(rows: Records, lengths: Lengths, layout: Layout) -> Spec:
    extent = [rows[0]["low"], rows[-1]["high"]]
    if extent[0] == extent[1]:
        extent = [extent[0] - 1, extent[1] + 1]
    top = max(row["count"] for row in rows)
    encoding = {
        "x": quantity(
            "low", domain=extent, title="Tokens", axis={"grid": False, "tickCount": 10 if layout is WIDE else 5}
        ),
        "y": quantity("count", domain=[0, top * 1.15], title="Conversations", axis={"tickCount": 4, "format": "~s"}),
    }
    bar: dict[str, Spec] = {
        "x2": {"field": "high"},
        "y2": {"datum": 0},
        "description": {"field": "hover", "type": "nominal"},
    }
    middle = {"values": [{"low": lengths.median, "count": top * 1.15, "label": f"median {figure(lengths.median)}"}]}
    is_left = lengths.median < (extent[0] + extent[1]) / 2
    words = {
        "type": "text",
        "align": "left" if is_left else "right",
        "baseline": "top",
        "dx": 6 if is_left else -6,
        "color": INK,
        "fontSize": layout.font,
    }
    layers = [
        layer(
            {"type": "rect", "color": "var(--s-1)", "opacity": 0.75, "stroke": SURFACE, "strokeWidth": 1}, encoding, bar
        ),
        {
            "data": middle,
            "mark": {"type": "rule", "color": INK, "strokeDash": [4, 3]},
            "encoding": {"x": encoding["x"]},
        },
        {"data": middle, **layer(words, encoding, {"text": {"field": "label", "type": "nominal"}})},
    ]
    chart = {"width": layout.width, "height": 190 if layout is WIDE else 170, "data": {"values": rows}, "layer": layers}
    return chart


def length_table(lengths: Lengths) -> Table:
    """Return the bins of the histogram."""
    bins = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    rows = [(f"{figure(a)} to {figure(b)}", f"{n:,}") for a, b, n in bins]
    return Table(("Tokens", "Conversations"), rows, TITLE)
