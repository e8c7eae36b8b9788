"""The pictures of a calibration: ranges by layer, how ranges settle, lengths of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.compare.calibration_ranges import LayerRange
from pipeline.results.calibration import Lengths
from pipeline.stages.report.document import Seen, TechniqueFinding
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.vega.spec import (
    INK,
    MUTED,
    SURFACE,
    WIDE,
    Chart,
    Layout,
    heading,
    layer,
    logarithmic,
    own,
    quantity,
)
from pipeline.stages.report.vega.styles import COLOURS, Style, said, styles

REST = "other kinds"


def technique_styles(seen: Seen) -> dict[str, Style]:
    """A technique's look, which does not change with what is in use; the ones in use lead."""
    looks = styles(sorted(finding.technique for finding in seen.techniques))
    return {finding.technique: looks[finding.technique] for finding in seen.techniques}


def kind_styles(seen: Seen) -> dict[str, Style]:
    """The look of each kind that the ranges chart shows."""
    return styles(list(dict.fromkeys(item.kind for item in drawn_ranges(seen))))


def drawn_ranges(seen: Seen) -> list[LayerRange]:
    """The ranges by layer with as many kinds as there are looks: of more, those with the smallest ranges are merged."""
    largest: dict[str, float] = {}
    for item in seen.ranges:
        largest[item.kind] = max(item.largest, largest.get(item.kind, 0.0))
    if len(largest) <= len(COLOURS):
        return list(seen.ranges)
    kept = sorted(largest, key=lambda kind: -largest[kind])[: len(COLOURS) - 1]
    merged: dict[int, float] = {}
    for item in seen.ranges:
        if item.kind not in kept:
            merged[item.layer] = max(item.largest, merged.get(item.layer, 0.0))
    rest = [LayerRange(kind=REST, layer=at, largest=value) for at, value in sorted(merged.items())]
    return [item for item in seen.ranges if item.kind in kept] + rest


def range_chart(seen: Seen, name: str) -> Chart | None:
    """The largest magnitude by layer, a line for each kind of site."""
    # A logarithm has no place for what never was anything but zero.
    items = [item for item in drawn_ranges(seen) if item.largest > 0]
    if not items:
        return None
    looks = kind_styles(seen)
    rows = [
        {
            "layer": item.layer,
            "largest": item.largest,
            "kind": item.kind,
            "color": looks[item.kind].colour,
            "shape": looks[item.kind].shape,
            "hover": f"{item.kind}, layer {item.layer}: {figure(item.largest)}",
        }
        for item in items
    ]
    return Chart.of(
        name,
        "Largest magnitude by layer",
        said({name: look.shape for name, look in looks.items()}),
        lambda layout: _ranges(rows, looks, layout),
    )


def _ranges(rows: list[dict[str, Any]], looks: Mapping[str, Style], layout: Layout) -> dict[str, Any]:
    layers = [row["layer"] for row in rows]
    ends = [min(layers) - 0.4, max(layers) + 0.4]
    depth = {"format": "d", "tickMinStep": 1, "tickCount": 12 if layout is WIDE else 6, "grid": False}
    encoding = {
        "x": quantity("layer", domain=ends, title="Layer", axis=depth),
        "y": logarithmic("largest", [row["largest"] for row in rows], title="Largest magnitude"),
    }
    paint = {"field": "kind", "type": "nominal", "legend": None}
    line = {"color": {**paint, "scale": {"domain": list(looks), "range": [look.colour for look in looks.values()]}}}
    many = len(set(layers)) > 16
    point = {"type": "point", "filled": True, "size": (30 if layout is WIDE else 12) if many else 60, "opacity": 1}
    mark = {"color": own("color"), "shape": own("shape"), "description": {"field": "hover", "type": "nominal"}}
    layers_drawn = [
        layer({"type": "line", "strokeWidth": 1.4, "opacity": 0.7}, encoding, line),
        layer(point, encoding, mark),
    ]
    height = 340 if layout is WIDE else 280
    chart = {"width": layout.width, "height": height, "data": {"values": rows}, "layer": layers_drawn}
    return chart


def settling_chart(seen: Seen, name: str) -> Chart | None:
    """How each technique's clip points approach their final values as samples are seen."""
    shown = [finding.technique for finding in seen.techniques if len(seen.convergence.get(finding.technique, ())) > 1]
    if not shown:
        return None
    key = "Line: median of all sites; band: 5th to 95th percentile; grey: the tolerance."
    return Chart.of(
        name, "How clip points settle as samples are seen", key, lambda layout: _settling(seen, shown, layout)
    )


def _settling(seen: Seen, shown: Sequence[str], layout: Layout) -> dict[str, Any]:
    columns = 1 if layout.panels == 1 else min(3, len(shown))
    width = layout.width if columns == 1 else layout.width // columns - 70
    points = [point for name in shown for point in seen.convergence[name]]
    within = (1 - seen.tolerance, 1 + seen.tolerance)
    values = [100 * value for point in points for value in (point.low, point.high)] + [100 * end for end in within]
    low, high = min(values), max(values)
    looks = technique_styles(seen)
    samples = [point.samples for point in points]
    encoding = {
        "x": logarithmic("samples", samples, axis={"grid": False}, margin=1.06, most=6, title="Samples seen"),
        "y": _ratio(low, high),
    }
    findings = {finding.technique: finding for finding in seen.techniques}
    drawn = []
    for technique in shown:
        rows = [
            {"samples": p.samples, "median": 100 * p.median, "low": 100 * p.low, "high": 100 * p.high}
            for p in seen.convergence[technique]
        ]
        look, finding = looks[technique], findings[technique]
        band = {"y": {"field": "low"}, "y2": {"field": "high"}}
        line = {
            "type": "line",
            "color": look.colour,
            "strokeWidth": 2,
            "strokeDash": [int(n) for n in look.dash.split()],
        }
        layers = [
            {
                "data": {"values": [{"low": 100 * within[0], "high": 100 * within[1]}]},
                "mark": {"type": "rect", "color": MUTED, "opacity": 0.28},
                "encoding": {"y": {**encoding["y"], "field": "low"}, "y2": {"field": "high"}},
            },
            layer({"type": "area", "color": look.colour, "opacity": 0.22}, encoding, band),
            layer(line, encoding, {"y": {"field": "median"}}),
        ]
        drawn.append(
            {
                "width": width,
                "height": 150,
                "title": heading(
                    f"{technique}{' (in use)' if finding.used_by else ''}", _brief(finding, seen), layout, width
                ),
                "data": {"values": rows},
                "layer": layers,
            }
        )
    return {"concat": drawn, "columns": columns, "spacing": {"row": 26, "column": 24}}


def _brief(finding: TechniqueFinding, seen: Seen) -> str:
    """The verdict in a panel's width; the page has it whole."""
    moving = len(finding.moving)
    return f"{moving} of {seen.site_count} ranges still move" if moving else finding.text


def _ratio(low: float, high: float) -> dict[str, Any]:
    """Percent of the final value; on a logarithmic axis where values are many times apart."""
    heading, axis = "% of final clip point", {"tickCount": 5}
    if low > 0 and high / low > 12:
        return logarithmic("median", [low, high], title=heading, axis=axis, most=5)
    room = 0.06 * (high - low)
    return quantity("median", domain=[low - room, high + room], title=heading, axis=axis)


def length_chart(lengths: Lengths, name: str) -> Chart | None:
    """How long the conversations were."""
    if not any(lengths.counts):
        return None
    bins = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    rows = [
        {"low": low, "high": high, "count": count, "hover": f"{figure(low)} to {figure(high)} tokens: {count:,}"}
        for low, high, count in bins
    ]
    return Chart.of(
        name, "Lengths of the conversations of the calibration set", "", lambda layout: _lengths(rows, lengths, layout)
    )


def _lengths(rows: list[dict[str, Any]], lengths: Lengths, layout: Layout) -> dict[str, Any]:
    ends = [rows[0]["low"], rows[-1]["high"]]
    if ends[0] == ends[1]:
        ends = [ends[0] - 1, ends[1] + 1]
    top = max(row["count"] for row in rows)
    encoding = {
        "x": quantity(
            "low", domain=ends, title="Tokens", axis={"grid": False, "tickCount": 10 if layout is WIDE else 5}
        ),
        "y": quantity("count", domain=[0, top * 1.15], title="Conversations", axis={"tickCount": 4, "format": "~s"}),
    }
    bar: dict[str, dict[str, Any]] = {
        "x2": {"field": "high"},
        "y2": {"datum": 0},
        "description": {"field": "hover", "type": "nominal"},
    }
    middle = {"values": [{"low": lengths.median, "count": top * 1.15, "label": f"median {figure(lengths.median)}"}]}
    is_left = lengths.median < (ends[0] + ends[1]) / 2
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
