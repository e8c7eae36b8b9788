"""Latency percentiles: for each variant the 50th, 90th and 99th percentile of TTFT, TPOT, ITL and E2EL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.stats.repeats import Change
from pipeline.results import metrics
from pipeline.results.metrics import LATENCIES, PERCENTILES
from pipeline.stages.report.blocks import PAGE, Block, Heading, Key, Mark, Picture, Table, lead
from pipeline.stages.report.number_format import decimals, figure, format_interval, number, signed
from pipeline.stages.report.vega.panels import Strip, hover, mark, strips
from pipeline.stages.report.vega.spec import (
    WIDE,
    Chart,
    Layout,
    Records,
    Spec,
    domain,
    from_row,
    logarithmic,
    quantity,
)
from pipeline.stages.report.vega.styles import FAMILY_COLOURS

SHAPES = {"median": "circle", "p90": "square", "p99": "triangle-right"}
ORDINALS = {name: f"{percent}th" for percent, name in PERCENTILES.items()}


def latency_blocks(comparison: Comparison) -> Iterator[Block]:
    """Yield the percentiles under the load of the results; nothing if no benchmark has any."""
    if (chart := latency_chart(comparison)) is None:
        return
    yield Heading("Latency percentiles", media=PAGE)
    yield lead(
        "Under the load of the table above: what half of the requests, nine in ten, and ninety-nine in a hundred "
        "stay below."
    )
    marks = [Mark(f"{name} percentile", "var(--muted)", SHAPES[which]) for which, name in ORDINALS.items()]
    yield Key(marks, media=PAGE)
    yield Picture(chart, [latency_table(comparison)], media=PAGE)


def percentile(row: Row, which: str, latency: str) -> SpeedCell | None:
    """Return a variant's percentile of a latency in milliseconds; None if its benchmark has none."""
    cell = row.details.get(metrics.latency(which, latency).name)
    return cell if isinstance(cell, SpeedCell) else None


def latency_chart(comparison: Comparison) -> Chart | None:
    """Return a panel for each latency with percentiles; None if no benchmark has any."""
    rows = {latency: _rows(comparison, latency) for latency in LATENCIES}
    rows = {latency: found for latency, found in rows.items() if found}
    if not rows:
        return None
    key = "Circle: 50th percentile; square: 90th; triangle: 99th. Milliseconds."
    labels = list(dict.fromkeys(row["label"] for found in rows.values() for row in found))
    return Chart("latency", "Latency percentiles", key, lambda layout: _latency(rows, labels, layout))


def _rows(comparison: Comparison, latency: str) -> Records:
    found = []
    for row in comparison.rows:
        cells = {which: cell for which in ORDINALS if (cell := percentile(row, which, latency)) is not None}
        if "p99" not in cells:
            continue
        values = {which: cell.measured.mean for which, cell in cells.items()}
        for which, cell in cells.items():
            around = cell.measured.interval
            between = f" ({figure(around.low)} to {figure(around.high)})" if around else ""
            found.append(
                {
                    "label": row.label,
                    "value": values[which],
                    "first": min(values.values()),
                    "last": max(values.values()),
                    "which": which,
                    "shape": SHAPES[which],
                    "color": FAMILY_COLOURS[row.family],
                    "hover": f"{row.label}: {ORDINALS[which]} percentile of {latency.upper()} "
                    f"{figure(values[which])} ms{between}",
                }
            )
    return found


def _latency(rows: dict[str, Records], labels: list[str], layout: Layout) -> Spec:
    span = mark(
        {"type": "rule", "strokeWidth": 2, "opacity": 0.5},
        "datum.which == 'p99'",
        x={"field": "first"},
        x2={"field": "last"},
        color=from_row("color"),
    )
    point = mark(
        {"type": "point", "filled": True, "size": 52, "opacity": 1, "strokeWidth": 1.6},
        shape=from_row("shape"),
        fill=from_row("color"),
        stroke=from_row("color"),
        description=hover(),
    )
    panels = []
    for latency, found in rows.items():
        values = [row["value"] for row in found]
        axis = {
            "tickCount": 3 if layout is WIDE else 5,
            "labelFlush": False,
            "labelOverlap": True,
            "labelSeparation": 6,
        }
        if min(values) > 0 and max(values) / min(values) > 12:
            x = logarithmic("value", values, margin=1.15, most=4, axis={"labelFlush": False})
        else:
            x = quantity("value", domain=domain([0.0, *values], 0.06), axis=axis)
        panels.append(Strip(f"{latency.upper()} (ms)", found, x, [span, point], LATENCIES[latency]))
    return strips(panels, labels, layout)


def latency_table(comparison: Comparison) -> Table:
    """Return every percentile of the chart, with its interval and its change against BF16."""
    rows = []
    for row in comparison.rows:
        for latency in LATENCIES:
            for which, name in ORDINALS.items():
                if (cell := percentile(row, which, latency)) is not None:
                    rows.append((row.label, latency.upper(), name, *_cell(cell)))
    head = ("Variant", "Latency", "Percentile", "ms", "95 %", "Against BF16", "95 %")
    return Table(head, rows, "Latency percentiles")


def _cell(cell: SpeedCell) -> tuple[str, str, str, str]:
    measured, change = cell.measured, cell.change
    digits = min(2, decimals([measured.mean]))
    shown = (number(measured.mean, digits), format_interval(measured.interval, partial(number, digits=digits)))
    if not isinstance(change, Change):
        return (*shown, "", "")
    return (
        *shown,
        f"{signed(change.percent)} %",
        f"{format_interval(change.interval, signed)} %" if change.interval else "n/a",
    )
