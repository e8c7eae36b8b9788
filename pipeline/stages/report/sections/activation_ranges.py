"""Ranges of activations: the largest magnitude by layer, and the clip points of every site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.compare.calibration_ranges import LayerRange
from pipeline.stages.report.blocks import PAGE, Block, Heading, Key, Mark, Picture, Table, lead
from pipeline.stages.report.document import CalibrationFindings
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.vega.spec import WIDE, Chart, Layout, Records, Spec, from_row, layer, logarithmic, quantity
from pipeline.stages.report.vega.styles import COLOURS, Style, assign_styles, described

REST = "other kinds"


def range_blocks(seen: CalibrationFindings, name: str) -> Iterator[Block]:
    """Yield the ranges by layer; nothing if no site has a layer and a range."""
    if (chart := range_chart(seen, name)) is None:
        return
    yield Heading("Ranges by layer", media=PAGE)
    yield lead(
        "One scale for a whole tensor covers values up to the largest magnitude: the higher a point, the coarser the "
        "resolution of all other values at that site."
    )
    yield Key([Mark(kind, style.colour, style.shape) for kind, style in kind_styles(seen).items()], media=PAGE)
    yield Picture(chart, [range_table(seen)], media=PAGE)


def kind_styles(seen: CalibrationFindings) -> dict[str, Style]:
    """Return the style of each kind of site."""
    return assign_styles(list(dict.fromkeys(item.kind for item in drawn_ranges(seen))))


def drawn_ranges(seen: CalibrationFindings) -> list[LayerRange]:
    """Return the ranges by layer, at most one kind per style: further kinds with the smallest ranges are merged."""
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


def range_chart(seen: CalibrationFindings, name: str) -> Chart | None:
    """Return the largest magnitude by layer, one line per kind of site."""
    # A logarithmic axis cannot show zero.
    items = [item for item in drawn_ranges(seen) if item.largest > 0]
    if not items:
        return None
    styles = kind_styles(seen)
    rows = [
        {
            "layer": item.layer,
            "largest": item.largest,
            "kind": item.kind,
            "color": styles[item.kind].colour,
            "shape": styles[item.kind].shape,
            "hover": f"{item.kind}, layer {item.layer}: {figure(item.largest)}",
        }
        for item in items
    ]
    return Chart(
        name,
        "Largest magnitude by layer",
        described({name: style.shape for name, style in styles.items()}),
        lambda layout: _ranges(rows, styles, layout),
    )


def _ranges(rows: Records, styles: Mapping[str, Style], layout: Layout) -> Spec:
    layers = [row["layer"] for row in rows]
    extent = [min(layers) - 0.4, max(layers) + 0.4]
    depth = {"format": "d", "tickMinStep": 1, "tickCount": 12 if layout is WIDE else 6, "grid": False}
    encoding = {
        "x": quantity("layer", domain=extent, title="Layer", axis=depth),
        "y": logarithmic("largest", [row["largest"] for row in rows], title="Largest magnitude"),
    }
    paint = {"field": "kind", "type": "nominal", "legend": None}
    line = {"color": {**paint, "scale": {"domain": list(styles), "range": [style.colour for style in styles.values()]}}}
    many = len(set(layers)) > 16
    point = {"type": "point", "filled": True, "size": (30 if layout is WIDE else 12) if many else 60, "opacity": 1}
    mark = {
        "color": from_row("color"),
        "shape": from_row("shape"),
        "description": {"field": "hover", "type": "nominal"},
    }
    layers_drawn = [
        layer({"type": "line", "strokeWidth": 1.4, "opacity": 0.7}, encoding, line),
        layer(point, encoding, mark),
    ]
    height = 340 if layout is WIDE else 280
    chart = {"width": layout.width, "height": height, "data": {"values": rows}, "layer": layers_drawn}
    return chart


def range_table(seen: CalibrationFindings) -> Table:
    """Return the largest magnitude by layer, one column per kind."""
    items = drawn_ranges(seen)
    kinds = list(dict.fromkeys(item.kind for item in items))
    found = {(item.layer, item.kind): item.largest for item in items}
    rows = []
    for at in sorted({item.layer for item in items}):
        cells = (figure(found[at, kind]) if (at, kind) in found else "" for kind in kinds)
        rows.append((f"{at}", *cells))
    return Table(("Layer", *kinds), rows, "Largest magnitude by layer")


def clip_table(seen: CalibrationFindings, caption: str, names: set[str] | None = None) -> Table:
    """Return the range of each site and the clip point of each technique, for the named sites or all."""
    sites = [site for site in seen.sites if names is None or site.name in names]
    columns = _clip_columns(seen)
    rows = []
    for site in sites:
        channels = ", ".join(f"{each.channel}: {figure(each.absmax)}" for each in site.outlier_channels)
        clips = (
            figure(site.clip[form][technique]) if technique in site.clip.get(form, {}) else "n/a"
            for technique, form, _ in columns
        )
        summary = (figure(site.minimum), figure(site.maximum), figure(site.outlier_ratio))
        rows.append((site.name, site.kind, *summary, *clips, channels))
    heads = tuple(f"{technique}, {form}" if only else technique for technique, form, only in columns)
    head = ("Site", "Kind", "Minimum", "Maximum", "Outlier ratio", *heads, "Largest channels")
    return Table(head, rows, caption)


def _clip_columns(seen: CalibrationFindings) -> list[tuple[str, str, bool]]:
    """Return technique, format, and True if clip points depend on the format, else one column for all formats."""
    formats = list(dict.fromkeys(form for site in seen.sites for form in site.clip))
    columns = []
    for finding in seen.techniques:
        name = finding.technique
        clips = [[site.clip.get(form, {}).get(name) for site in seen.sites] for form in formats]
        differ = any(each != clips[0] for each in clips)
        columns += [(name, form, differ) for form in (formats if differ else formats[:1])]
    return columns
