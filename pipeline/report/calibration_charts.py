"""The pictures of a calibration: ranges by layer, the worst outliers, how ranges settle, lengths of conversations.

Kinds of sites and techniques are told apart by colour and by shape or dash. Every figure drawn here stands in a table
on the same page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.compare.calibration import LayerRange
from pipeline.report.document import Seen, SiteFinding, TechniqueFinding
from pipeline.report.summary import Histogram, Lengths
from pipeline.report.svg import draw
from pipeline.report.text import decimals, number
from pipeline.report.vega import INK, LAYOUTS, MUTED, SURFACE, WIDE, Layout, finish, layer, own, quantity, shorten

# The format whose clip points are drawn; the table has those of every format.
FORMAT = "fp8_e4m3"
COLOURS = tuple(f"var(--s-{index})" for index in range(1, 9))
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "circle", "square")
DASHES = ("1 0", "7 3", "2 2", "8 2 2 2", "4 4", "10 3 2 3 2 3", "1 3", "12 4")
REST = "other kinds"
PANELS = 10
# Clip points lie near the largest magnitude: histograms are drawn from this fraction of it on.
SHOWN = 1e-3


@dataclass(frozen=True)
class Style:
    """How a kind of site or a technique looks."""

    colour: str
    shape: str
    dash: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each name."""
    looks = list(zip(COLOURS, SHAPES, DASHES, strict=True))
    return {name: Style(*looks[index % len(looks)]) for index, name in enumerate(names)}


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


def range_chart(seen: Seen, name: str) -> list[str]:
    """The largest magnitude by layer, a line for each kind of site."""
    # A logarithm has no place for what never was anything but zero.
    items = [item for item in drawn_ranges(seen) if item.largest > 0]
    if not items:
        return []
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
    text = "Largest magnitude by layer for each kind of input; the table below it has the figures."
    return [draw(_ranges(rows, looks, layout), f"{name}-{layout.name}", text) for layout in LAYOUTS]


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
    return finish(chart, layout)


@dataclass(frozen=True)
class Outlier:
    """One of the worst sites, with its histogram."""

    title: str
    site: SiteFinding
    histogram: Histogram


def outliers(seen: Seen) -> list[Outlier]:
    """The worst sites that have a histogram on a logarithmic axis."""
    by_name = {site.name: site for site in seen.sites}
    found = []
    for histogram in seen.worst:
        site = by_name.get(histogram.site)
        edges = histogram.edges
        is_drawable = bool(edges) and edges[0] > 0 and all(a < b for a, b in pairwise(edges))
        if site is not None and is_drawable and any(histogram.counts):
            found.append(Outlier(title_of(site), site, histogram))
    return sorted(found, key=lambda item: -item.site.outlier_ratio)[:PANELS]


def shown_bins(histogram: Histogram) -> tuple[list[float], list[int]]:
    """Edges and counts of the bins that are drawn."""
    first = sum(edge < SHOWN * histogram.edges[-1] for edge in histogram.edges[:-2])
    # A cut that leaves nothing but empty bins would hide the site.
    first = first if any(histogram.counts[first:]) else 0
    return list(histogram.edges[first:]), list(histogram.counts[first:])


def title_of(site: SiteFinding) -> str:
    """A site as people call it."""
    return site.name if site.layer is None else f"{site.kind}, layer {site.layer}"


def outlier_chart(seen: Seen, name: str) -> list[str]:
    """Histograms of the worst sites, with the clip point of each technique."""
    found = outliers(seen)
    if not found:
        return []
    looks = technique_styles(seen)
    text = "Histogram of magnitudes at each of the worst sites with every technique's clip point; figures are below."
    return [draw(_outliers(found, looks, layout), f"{name}-{layout.name}", text) for layout in LAYOUTS]


def _outliers(found: Sequence[Outlier], looks: Mapping[str, Style], layout: Layout) -> dict[str, Any]:
    columns = 1 if layout.panels == 1 else min(2, len(found))
    # Of a panel's share of the width its axis takes 46, the space to the next 24.
    width = layout.width if columns == 1 else layout.width // columns - 70
    panels = [_outlier(item, looks, layout, width) for item in found]
    return finish({"concat": panels, "columns": columns, "spacing": {"row": 26, "column": 24}}, layout)


def _outlier(item: Outlier, looks: Mapping[str, Style], layout: Layout, width: int) -> dict[str, Any]:
    edges, counts = shown_bins(item.histogram)
    # An empty bin stands at the floor, a single value visibly above it.
    floor, top = 0.5, float(max(counts))
    bins = [{"edge": edge, "count": max(floor, float(count))} for edge, count in zip(edges, counts, strict=False)]
    bins.append({"edge": edges[-1], "count": floor})
    clips = [(name, value) for name, value in item.site.clip.get(FORMAT, {}).items() if name in looks and value > 0]
    # Each technique's mark has a lane of its own above the bars, so that equal clip points stay apart.
    reach, lane = math.log10(top / floor), 0.085
    rows = [
        {
            "clip": value,
            "lane": top * 10 ** (reach * lane * (1.2 + list(looks).index(name))),
            "floor": floor,
            "technique": name,
            "color": looks[name].colour,
            "shape": looks[name].shape,
            "hover": f"{item.title}: {name} clips at {figure(value)}",
        }
        for name, value in clips
    ]
    across = [edges[0], max([edges[-1], *(value for _, value in clips)])]
    upper = top * 10 ** (reach * lane * (0.8 + len(looks)))
    size = {"labelFontSize": layout.font - 1}
    x = logarithmic("edge", across, axis={**size, "tickCount": 5, "grid": False}, margin=1.15, most=5)
    counted = {**size, "values": decades(1, top, 4), "format": "~s"}
    encoding = {
        "x": x,
        "y": {**quantity("count", domain=[floor, upper], axis=counted), **_log([floor, upper])},
    }
    dash = {
        "field": "technique",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(looks), "range": [[int(n) for n in look.dash.split()] for look in looks.values()]},
    }
    rules: dict[str, dict[str, Any]] = {"x": {"field": "clip"}, "color": own("color")}
    rule = {**rules, "y": {"field": "lane"}, "y2": {"field": "floor"}, "strokeDash": dash}
    hover = {"description": {"field": "hover", "type": "nominal"}}
    layers = [
        layer(
            {"type": "area", "interpolate": "step-after", "color": MUTED, "opacity": 0.45},
            encoding,
            {"y2": {"datum": floor}},
        ),
        {"data": {"values": rows}, **layer({"type": "rule", "strokeWidth": 1.5}, encoding, rule)},
        {
            "data": {"values": rows},
            **layer(
                {"type": "point", "filled": True, "size": 42, "opacity": 1, "stroke": SURFACE, "strokeWidth": 0.6},
                encoding,
                {**rules, "y": {"field": "lane"}, "shape": own("shape"), **hover},
            ),
        },
    ]
    ratio = f"largest channel {figure(item.site.outlier_ratio)} × the median one"
    return {
        "width": width,
        "height": 150,
        "title": title(item.title, ratio, layout, width),
        "data": {"values": bins},
        "layer": layers,
    }


def settling_chart(seen: Seen, name: str) -> list[str]:
    """How each technique's clip points approach their final values as samples are seen."""
    shown = [finding.technique for finding in seen.techniques if len(seen.convergence.get(finding.technique, ())) > 1]
    if not shown:
        return []
    text = "Clip points relative to their final values by samples seen, for each technique; the table has the figures."
    return [draw(_settling(seen, shown, layout), f"{name}-{layout.name}", text) for layout in LAYOUTS]


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
                "title": title(
                    f"{technique}{' (in use)' if finding.used_by else ''}", _brief(finding, seen), layout, width
                ),
                "data": {"values": rows},
                "layer": layers,
            }
        )
    return finish({"concat": drawn, "columns": columns, "spacing": {"row": 26, "column": 24}}, layout)


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


def length_chart(lengths: Lengths, name: str) -> list[str]:
    """How long the conversations were."""
    if not any(lengths.counts):
        return []
    bins = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    rows = [
        {"low": low, "high": high, "count": count, "hover": f"{figure(low)} to {figure(high)} tokens: {count:,}"}
        for low, high, count in bins
    ]
    text = "Histogram of conversation lengths in tokens; the table below it has the figures."
    return [draw(_lengths(rows, lengths, layout), f"{name}-{layout.name}", text) for layout in LAYOUTS]


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
    return finish(chart, layout)


def figure(value: float) -> str:
    """A magnitude to about four digits; a very small or large one with its power of ten."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return number(value, min(decimals([value]), 0 if value == round(value) else 4))


def decades(low: float, high: float, most: int) -> list[float]:
    """Where a logarithmic axis is labelled: powers of ten, with steps of 1, 2, 5 where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**p for p in range(first, last + 1) if low <= 10.0**p <= high]
    if len(powers) > most:
        return powers[:: math.ceil(len(powers) / most)]
    finer = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    if len(powers) >= 3 or len(finer) < 2:
        return powers or finer
    return finer[:: math.ceil(len(finer) / most)]


def logarithmic(
    field: str, values: Sequence[float], title: str | None = None, margin: float = 1.25, most: int = 7, **more: Any
) -> dict[str, Any]:
    """A logarithmic scale around values above zero, with its own labels."""
    ends = [min(values) / margin, max(values) * margin]
    ticks = {"values": decades(ends[0], ends[1], most), "format": "~g", **more.pop("axis", {})}
    return {**quantity(field, domain=ends, title=title, axis=ticks, **more), **_log(ends)}


def _log(ends: Sequence[float]) -> dict[str, Any]:
    return {"scale": {"type": "log", "domain": list(ends), "nice": False, "zero": False}}


def title(text: str, below: str, layout: Layout, width: int) -> dict[str, Any]:
    """A panel's heading, cut to its width."""
    characters = int(width / layout.font / 0.5)
    return {
        "text": shorten(text, characters),
        "subtitle": shorten(below, characters + 6),
        "anchor": "start",
        "frame": "group",
        "fontSize": layout.font,
        "subtitleFontSize": layout.font - 1.5,
        "color": INK,
        "subtitleColor": MUTED,
    }
