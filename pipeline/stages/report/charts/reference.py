"""A published study beside these results: changes against BF16, and which of its differences are noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.compare.published.reproduction import ReproducedCell, Reproduction
from pipeline.results.base import Missing
from pipeline.stages.report.number_format import signed
from pipeline.stages.report.vega.panels import Strip, diamond, interval, line_at, ring, strips
from pipeline.stages.report.vega.spec import INK, MUTED, Chart, Layout, domain, quantity
from pipeline.stages.report.vega.styles import COLOURS

TITLES = {"total_token_throughput": "Throughput", "mean_ttft_ms": "Mean TTFT", "mean_tpot_ms": "Mean TPOT"}
PUBLISHED, MEASURED = COLOURS[1], COLOURS[0]


def reproduction_chart(reproduction: Reproduction) -> Chart | None:
    """For each metric the published change against BF16 and the measured one; nothing where none was measured."""
    panels = {}
    for metric in dict.fromkeys(cell.metric for cell in reproduction.cells):
        rows = _rows([cell for cell in reproduction.cells if cell.metric == metric], reproduction.kind)
        if any(row["kind"] == "measured" for row in rows):
            panels[metric] = rows
    if not panels:
        return None
    labels = list(dict.fromkeys(row["label"] for rows in panels.values() for row in rows))
    unit = "points" if reproduction.kind == "accuracy" else "%"

    def spec(layout: Layout) -> dict[str, Any]:
        # A filled diamond is printed, a ring is ours: the two are told apart without colour.
        layers = [
            line_at(0),
            interval("datum.kind == 'measured'"),
            diamond("datum.kind == 'published'", size=84),
            ring("datum.kind == 'measured'"),
        ]
        drawn = []
        for metric, rows in panels.items():
            ends = domain([0.0, *(row[name] for row in rows for name in ("value", "low", "high"))], 0.07)
            x = quantity("value", domain=ends, axis={"tickCount": 4, "labelFlush": False})
            drawn.append(Strip(TITLES.get(metric, metric), rows, x, layers, f"against BF16, {unit}"))
        return strips(drawn, labels, layout)

    title = f"{reproduction.title}: published and measured"
    key = "Diamond: published, a single run without an interval. Ring: measured here, with its 95 % interval."
    return Chart.of(f"reproduction-{reproduction.table}", title, key, spec)


def _rows(cells: Sequence[ReproducedCell], kind: str) -> list[dict[str, Any]]:
    unit, rows = "points" if kind == "accuracy" else "%", []
    for cell in cells:
        if (change := cell.published_change) is not None:
            text = f"{cell.label}: published {signed(change)} {unit}"
            ends = {"low": change, "high": change}
            rows.append(
                {"label": cell.label, "kind": "published", "value": change, **ends, "color": PUBLISHED, "hover": text}
            )
        if (change := cell.measured_change) is not None and not isinstance(cell.published, Missing):
            around = cell.measured_change_interval
            low, high = (around.low, around.high) if around else (change, change)
            text = f"{cell.label}: measured {signed(change)} {unit} ({signed(low)} to {signed(high)})"
            ends = {"low": low, "high": high}
            rows.append(
                {"label": cell.label, "kind": "measured", "value": change, **ends, "color": MEASURED, "hover": text}
            )
    return rows


def published_chart(reproduction: Reproduction) -> Chart | None:
    """A published accuracy table's differences from BF16 with the intervals that their numbers of items imply."""
    found = reproduction.differences
    if not found:
        return None
    rows = [
        {
            "label": each.label,
            "task": each.task,
            "value": each.points,
            "low": each.interval.low,
            "high": each.interval.high,
            "kind": "noise" if each.within_noise else "clear",
            "color": MUTED if each.within_noise else INK,
            "hover": f"{each.label}, {each.task}: {signed(each.points, 2)} points "
            f"({signed(each.interval.low)} to {signed(each.interval.high)}), {each.n:,} items",
        }
        for each in found
    ]
    ends = domain([0.0, *(end for each in found for end in (each.interval.low, each.interval.high))], 0.05)

    def spec(layout: Layout) -> dict[str, Any]:
        x = quantity("value", domain=ends, axis={"tickCount": 5, "labelFlush": False})
        layers = [line_at(0), interval(), ring("datum.kind == 'noise'"), diamond("datum.kind == 'clear'")]
        tasks = dict.fromkeys(row["task"] for row in rows)
        drawn = [Strip(str(task), [row for row in rows if row["task"] == task], x, layers) for task in tasks]
        return strips(drawn, list(dict.fromkeys(str(row["label"]) for row in rows)), layout)

    key = "Points against BF16 with the 95 % interval that so many items imply. Ring: within noise; diamond: not."
    return Chart.of(f"published-{reproduction.table}", f"{reproduction.title}: which differences are noise", key, spec)
