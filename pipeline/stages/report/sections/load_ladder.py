"""Throughput and latency of each variant by load, from idle to saturation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.compare.benchmarks import Benchmark, LoadRow, SpeedCell
from pipeline.compare.comparison import Comparison, Row
from pipeline.results.metrics import P99_TTFT, THROUGHPUT, TPOT, MetricDefinition
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.vega.spec import (
    WIDE,
    Chart,
    Layout,
    Records,
    Spec,
    from_row,
    heading,
    layer,
    logarithmic,
)
from pipeline.stages.report.vega.styles import BASELINE, Style, assign_styles

By = Literal["max_concurrency", "request_rate"]


@dataclass(frozen=True)
class Panel:
    """One figure by one kind of load."""

    metric: MetricDefinition
    title: str
    by: By
    axis: str


PANELS = (
    Panel(THROUGHPUT, "Throughput", "max_concurrency", "Requests in flight"),
    Panel(TPOT, "Mean TPOT", "max_concurrency", "Requests in flight"),
    Panel(P99_TTFT, "TTFT, 99th percentile", "max_concurrency", "Requests in flight"),
    Panel(P99_TTFT, "TTFT, 99th percentile", "request_rate", "Requests per second"),
)


def load_of(load: LoadRow, by: By) -> float | None:
    """Return the load's requests in flight or per second; None if the load is of the other kind."""
    rate, flight = load.request_rate, load.max_concurrency
    if by == "request_rate":
        return float(rate) if rate != "inf" else None
    return float(flight) if flight is not None and rate == "inf" else None


def ladders(comparison: Comparison) -> list[tuple[Row, Benchmark]]:
    """Return the variants with several loads of one kind, each under its protocol with most loads."""
    found = []
    for row in comparison.rows:
        climbed = [benchmark for benchmark in row.benchmarks.values() if _steps(benchmark) > 1]
        if climbed:
            found.append((row, max(climbed, key=_steps)))
    return found


def _steps(benchmark: Benchmark) -> int:
    kinds: tuple[By, ...] = ("max_concurrency", "request_rate")
    return max(len({at for load in benchmark.loads if (at := load_of(load, by)) is not None}) for by in kinds)


def ladder_styles(comparison: Comparison) -> dict[str, Style]:
    """Return the style of each variant with a load ladder."""
    climbed = [row for row, _ in ladders(comparison)]
    styles = assign_styles([row.label for row in climbed if not row.is_baseline])
    # BF16 has the colour of every other chart.
    return {row.label: BASELINE if row.is_baseline else styles[row.label] for row in climbed}


def ladder_chart(comparison: Comparison) -> Chart | None:
    """Return a panel for each figure and kind of load with several steps; None without a ladder."""
    climbed, styles = ladders(comparison), ladder_styles(comparison)
    panels = {panel: rows for panel in PANELS if (rows := _rows(climbed, styles, panel))}
    if not panels:
        return None
    key = "Lines join the loads of one variant; bars are 95 % intervals over repeats."
    return Chart("ladder", "From idle to saturation", key, lambda layout: _ladder(panels, styles, layout))


def _rows(climbed: Sequence[tuple[Row, Benchmark]], styles: dict[str, Style], panel: Panel) -> Records:
    rows = []
    for row, benchmark in climbed:
        style = styles[row.label]
        for load in benchmark.loads:
            at, cell = load_of(load, panel.by), load.cells.get(panel.metric.name)
            if at is None or not isinstance(cell, SpeedCell) or cell.measured.mean <= 0:
                continue
            value, around = cell.measured.mean, cell.measured.interval
            interval_text = f" ({figure(around.low)} to {figure(around.high)})" if around else ""
            rows.append(
                {
                    "label": row.label,
                    "load": at,
                    "value": value,
                    # A logarithmic axis cannot show a bound below zero.
                    "low": max(around.low, value / 20) if around else value,
                    "high": around.high if around else value,
                    "color": style.colour,
                    "shape": style.shape,
                    "hover": f"{row.label}, {load.name}: {figure(value)} {panel.metric.unit}{interval_text}",
                }
            )
    return rows if len({row["load"] for row in rows}) > 1 else []


def _ladder(panels: dict[Panel, Records], styles: dict[str, Style], layout: Layout) -> Spec:
    columns = 1 if layout.panels == 1 else 2 if len(panels) % 3 else 3
    width = layout.width if columns == 1 else layout.width // columns - 76
    drawn = [_curves(panel, rows, styles, layout, width) for panel, rows in panels.items()]
    return {"concat": drawn, "columns": columns, "spacing": {"row": 26, "column": 30}}


def _curves(panel: Panel, rows: Records, styles: dict[str, Style], layout: Layout, width: int) -> Spec:
    loads = sorted({row["load"] for row in rows})
    values = [value for row in rows for value in (row["value"], row["high"])]
    ticks = {"values": loads if panel.by == "max_concurrency" else loads[::2], "grid": False, "labelOverlap": True}
    encoding = {
        "x": logarithmic("load", loads, title=panel.axis, margin=1.1, axis=ticks),
        "y": logarithmic("value", values, title=None, margin=1.12, most=5),
    }
    names, tones = list(styles), [style.colour for style in styles.values()]
    dashes = [[int(part) for part in style.dash.split()] for style in styles.values()]
    by_label = {"field": "label", "type": "nominal", "legend": None}
    line: dict[str, Spec] = {
        "color": {**by_label, "scale": {"domain": names, "range": tones}},
        "strokeDash": {**by_label, "scale": {"domain": names, "range": dashes}},
    }
    point = {
        "fill": from_row("color"),
        "stroke": from_row("color"),
        "shape": from_row("shape"),
        "description": {"field": "hover", "type": "nominal"},
    }
    upright = {"y": {"field": "low"}, "y2": {"field": "high"}, "color": from_row("color")}
    size = 46 if layout is WIDE else 34
    layers = [
        layer({"type": "line", "strokeWidth": 1.6, "opacity": 0.85}, encoding, line),
        layer({"type": "rule", "strokeWidth": 1.4, "opacity": 0.7}, encoding, upright),
        layer({"type": "point", "filled": True, "size": size, "opacity": 1, "strokeWidth": 1.4}, encoding, point),
    ]
    return {
        "width": width,
        "height": 230 if layout is WIDE else 200,
        "title": heading(f"{panel.title} ({panel.metric.unit})", "", layout, width),
        "data": {"values": rows},
        "layer": layers,
    }
