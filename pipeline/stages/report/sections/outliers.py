"""Sites with the largest outliers: their histograms, with the clip point of each technique."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.results.calibration import Histogram
from pipeline.stages.report.blocks import PAGE, Block, Details, Heading, Key, Mark, Picture, Table, lead
from pipeline.stages.report.document import CalibrationFindings, SiteFinding
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.sections.activation_ranges import clip_table
from pipeline.stages.report.sections.convergence import technique_styles
from pipeline.stages.report.vega.spec import (
    MUTED,
    SURFACE,
    Chart,
    Layout,
    Records,
    Spec,
    decades,
    from_row,
    heading,
    layer,
    log_scale,
    logarithmic,
    quantity,
)
from pipeline.stages.report.vega.styles import Style, described

# The format of the clip points in the charts; the table has those of every format.
FORMAT = "fp8_e4m3"
PANELS = 10
# Clip points are near the largest magnitude: histograms start at this fraction of it.
SHOWN = 1e-3


@dataclass(frozen=True)
class Outlier:
    """One of the worst sites, with its histogram."""

    title: str
    site: SiteFinding
    histogram: Histogram


def outlier_blocks(seen: CalibrationFindings, name: str) -> Iterator[Block]:
    """Yield the histograms of the worst sites; nothing if none can be drawn."""
    if (chart := outlier_chart(seen, name)) is None:
        return
    histograms, styles = histogram_tables(seen), technique_styles(seen)
    yield Heading(f"The {len(histograms)} sites with the largest outliers", media=PAGE)
    yield lead(
        f"Values right of a technique's clip point ({FORMAT}) saturate; a clip point far right of the bulk spends "
        "resolution on a few channels, which costs INT8, with its equal steps, more than a floating-point format. "
        "Both axes are logarithmic; magnitudes below a thousandth of the largest are not drawn."
    )
    yield Key([Mark(each, style.colour, style.shape, style.dash) for each, style in styles.items()], media=PAGE)
    drawn = {item.site.name for item in outliers(seen)}
    clips = clip_table(seen, "Clip points of the sites with the largest outliers", drawn)
    bins = (Details(table.caption, [table], "bins") for table in histograms)
    yield Picture(chart, [clips, *bins], media=PAGE)


def outliers(seen: CalibrationFindings) -> list[Outlier]:
    """Return the worst sites with a histogram on a logarithmic axis."""
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
    """Return edges and counts of the bins to draw."""
    first = sum(edge < SHOWN * histogram.edges[-1] for edge in histogram.edges[:-2])
    # Without this, a site with only empty bins above the cut would have no histogram.
    first = first if any(histogram.counts[first:]) else 0
    return list(histogram.edges[first:]), list(histogram.counts[first:])


def title_of(site: SiteFinding) -> str:
    """Return the display name of a site."""
    return site.name if site.layer is None else f"{site.kind}, layer {site.layer}"


def outlier_chart(seen: CalibrationFindings, name: str) -> Chart | None:
    """Return histograms of the worst sites, with the clip point of each technique."""
    found = outliers(seen)
    if not found:
        return None
    styles = technique_styles(seen)
    return Chart(
        name,
        "Sites with the largest outliers, with the clip point of each technique",
        described({name: style.shape for name, style in styles.items()}),
        lambda layout: _outliers(found, styles, layout),
    )


def _outliers(found: Sequence[Outlier], styles: Mapping[str, Style], layout: Layout) -> Spec:
    columns = 1 if layout.panels == 1 else min(2, len(found))
    # The axis takes 46 of a panel's width, the gap to the next panel 24.
    width = layout.width if columns == 1 else layout.width // columns - 70
    panels = [_outlier(item, styles, layout, width) for item in found]
    return {"concat": panels, "columns": columns, "spacing": {"row": 26, "column": 24}}


def _outlier(item: Outlier, styles: Mapping[str, Style], layout: Layout, width: int) -> Spec:
    edges, counts = shown_bins(item.histogram)
    # An empty bin is drawn at the floor, a single value visibly above it.
    floor, top = 0.5, float(max(counts))
    bins = [{"edge": edge, "count": max(floor, float(count))} for edge, count in zip(edges, counts, strict=False)]
    bins.append({"edge": edges[-1], "count": floor})
    clips = [(name, value) for name, value in item.site.clip.get(FORMAT, {}).items() if name in styles and value > 0]
    # The mark of each technique has its own lane above the bars, so that equal clip points do not overlap.
    reach, lane = math.log10(top / floor), 0.085
    rows = [
        {
            "clip": value,
            "lane": top * 10 ** (reach * lane * (1.2 + list(styles).index(name))),
            "floor": floor,
            "technique": name,
            "color": styles[name].colour,
            "shape": styles[name].shape,
            "hover": f"{item.title}: {name} clips at {figure(value)}",
        }
        for name, value in clips
    ]
    across = [edges[0], max([edges[-1], *(value for _, value in clips)])]
    upper = top * 10 ** (reach * lane * (0.8 + len(styles)))
    size = {"labelFontSize": layout.font - 1}
    x = logarithmic("edge", across, axis={**size, "tickCount": 5, "grid": False}, margin=1.15, most=5)
    counted = {**size, "values": decades(1, top, 4), "format": "~s"}
    encoding = {
        "x": x,
        "y": {**quantity("count", domain=[floor, upper], axis=counted), **log_scale([floor, upper])},
    }
    area = {"type": "area", "interpolate": "step-after", "color": MUTED, "opacity": 0.45}
    layers = [layer(area, encoding, {"y2": {"datum": floor}}), *_clip_layers(rows, styles, encoding)]
    ratio = f"largest channel {figure(item.site.outlier_ratio)} × the median one"
    return {
        "width": width,
        "height": 150,
        "title": heading(item.title, ratio, layout, width),
        "data": {"values": bins},
        "layer": layers,
    }


def _clip_layers(rows: Records, styles: Mapping[str, Style], encoding: Spec) -> list[Spec]:
    """Return a dashed line and a mark for each technique's clip point."""
    dash = {
        "field": "technique",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(styles), "range": [[int(n) for n in style.dash.split()] for style in styles.values()]},
    }
    at = {"x": {"field": "clip"}, "y": {"field": "lane"}, "color": from_row("color")}
    hover = {"field": "hover", "type": "nominal"}
    point = {"type": "point", "filled": True, "size": 42, "opacity": 1, "stroke": SURFACE, "strokeWidth": 0.6}
    drawn = [
        layer({"type": "rule", "strokeWidth": 1.5}, encoding, {**at, "y2": {"field": "floor"}, "strokeDash": dash}),
        layer(point, encoding, {**at, "shape": from_row("shape"), "description": hover}),
    ]
    return [{"data": {"values": rows}, **each} for each in drawn]


def histogram_tables(seen: CalibrationFindings) -> list[Table]:
    """Return the bins of each histogram."""
    found = []
    for item in outliers(seen):
        edges, counts = item.histogram.edges, item.histogram.counts
        rows = [("zero, or below the first bin", f"{item.histogram.zeros:,}")]
        rows += [
            (f"{figure(low)} to {figure(high)}", f"{count:,}")
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ]
        found.append(Table(("Magnitude", "Values"), rows, item.site.name))
    return found
