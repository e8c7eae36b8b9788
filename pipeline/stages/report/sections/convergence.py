"""Convergence of calibration: the samples after which clip points are stable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.stages.report.blocks import PAGE, Block, Heading, Picture, Table, lead
from pipeline.stages.report.document import CalibrationFindings, TechniqueFinding
from pipeline.stages.report.number_format import number
from pipeline.stages.report.vega.spec import MUTED, Chart, Layout, Spec, heading, layer, logarithmic, quantity
from pipeline.stages.report.vega.styles import Style, assign_styles


def settling_blocks(seen: CalibrationFindings, name: str) -> Iterator[Block]:
    """Yield the clip points by samples; nothing for a single sample."""
    if (chart := settling_chart(seen, name)) is None:
        return
    yield Heading("Convergence of clip points", media=PAGE)
    yield lead(
        "Line: the median of all sites; band: their 5th to 95th percentile; grey: the tolerance. Curves that stay "
        "within the grey band have converged; a curve that still changes at the right end needs more samples, or a "
        "technique that clips."
    )
    yield Picture(chart, [settling_table(seen)], media=PAGE)


def technique_styles(seen: CalibrationFindings) -> dict[str, Style]:
    """Return a style for each technique, independent of which ones are in use."""
    styles = assign_styles(sorted(finding.technique for finding in seen.techniques))
    return {finding.technique: styles[finding.technique] for finding in seen.techniques}


def settling_chart(seen: CalibrationFindings, name: str) -> Chart | None:
    """Return the clip points of each technique by number of samples, relative to their final values."""
    shown = [finding.technique for finding in seen.techniques if len(seen.convergence.get(finding.technique, ())) > 1]
    if not shown:
        return None
    key = "Line: median of all sites; band: 5th to 95th percentile; grey: the tolerance."
    return Chart(name, "Clip points by number of samples", key, lambda layout: _settling(seen, shown, layout))


def _settling(seen: CalibrationFindings, shown: Sequence[str], layout: Layout) -> Spec:
    columns = 1 if layout.panels == 1 else min(3, len(shown))
    width = layout.width if columns == 1 else layout.width // columns - 70
    points = [point for name in shown for point in seen.convergence[name]]
    within = (1 - seen.tolerance, 1 + seen.tolerance)
    values = [100 * value for point in points for value in (point.low, point.high)] + [100 * end for end in within]
    low, high = min(values), max(values)
    styles = technique_styles(seen)
    samples = [point.samples for point in points]
    encoding = {
        "x": logarithmic("samples", samples, axis={"grid": False}, margin=1.06, most=6, title="Samples"),
        "y": _ratio(low, high),
    }
    findings = {finding.technique: finding for finding in seen.techniques}
    drawn = []
    for technique in shown:
        rows = [
            {"samples": p.samples, "median": 100 * p.median, "low": 100 * p.low, "high": 100 * p.high}
            for p in seen.convergence[technique]
        ]
        style, finding = styles[technique], findings[technique]
        band = {"y": {"field": "low"}, "y2": {"field": "high"}}
        line = {
            "type": "line",
            "color": style.colour,
            "strokeWidth": 2,
            "strokeDash": [int(n) for n in style.dash.split()],
        }
        layers = [
            {
                "data": {"values": [{"low": 100 * within[0], "high": 100 * within[1]}]},
                "mark": {"type": "rect", "color": MUTED, "opacity": 0.28},
                "encoding": {"y": {**encoding["y"], "field": "low"}, "y2": {"field": "high"}},
            },
            layer({"type": "area", "color": style.colour, "opacity": 0.22}, encoding, band),
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


def _brief(finding: TechniqueFinding, seen: CalibrationFindings) -> str:
    """Return the verdict shortened to a panel's width."""
    moving = len(finding.moving)
    return f"{moving} of {seen.site_count} ranges not stable" if moving else finding.text


def _ratio(low: float, high: float) -> Spec:
    """Return the axis in percent of the final value; logarithmic for a wide range of values."""
    heading, axis = "% of final clip point", {"tickCount": 5}
    if low > 0 and high / low > 12:
        return logarithmic("median", [low, high], title=heading, axis=axis, most=5)
    room = 0.06 * (high - low)
    return quantity("median", domain=[low - room, high + room], title=heading, axis=axis)


def settling_table(seen: CalibrationFindings) -> Table:
    """Return the clip points in percent of the final ones."""
    rows = [
        (finding.technique, f"{p.samples:,}", *(number(100 * v, 2) for v in (p.median, p.low, p.high)), f"{p.sites:,}")
        for finding in seen.techniques
        for p in seen.convergence.get(finding.technique, ())
    ]
    head = ("Technique", "Samples", "Median (%)", "5th percentile", "95th percentile", "Sites")
    return Table(head, rows, "Clip points by number of samples")


def stability_table(seen: CalibrationFindings) -> Table:
    """Return the number of samples after which each site's range stays within the tolerance."""
    names = [finding.technique for finding in seen.techniques]
    rows = []
    for site in seen.sites:
        after = (site.stable_after.get(name) for name in names)
        rows.append((site.name, *("not stable" if count is None else f"{count:,}" for count in after)))
    return Table(("Site", *names), rows, "Samples after which ranges were stable")
