"""A published study beside these results, cell by cell, as text."""

from __future__ import annotations

from pipeline.compare.published.reproduction import ReproducedCell, Reproduction
from pipeline.results.base import Missing
from pipeline.stages.report.charts.reference import TITLES
from pipeline.stages.report.number_format import ends, figure, number, signed
from pipeline.stages.report.tables.twins import Twin

AGREES = {True: "yes", False: "no", None: "cannot be told"}


def reproduction_figures(reproduction: Reproduction) -> Twin:
    """Published and measured figures and changes; agreement where there is an interval to hold one against."""
    unit = "points" if reproduction.kind == "accuracy" else "%"
    rows = tuple(_row(cell, reproduction.kind) for cell in reproduction.cells)
    change = f"change ({unit})"
    head = ("Published as", "Variant here", "Metric", "Published", f"Published {change}", "Measured", "95 %")
    return Twin((*head, f"Measured {change}", "95 %", "Measured over published", "Agrees"), rows)


def _row(cell: ReproducedCell, kind: str) -> tuple[str, ...]:
    def show(value: float) -> str:
        return number(value, 2) if kind == "accuracy" else figure(value)

    def change(value: float | None) -> str:
        return "" if value is None else signed(value)

    measured = f"n/a: {cell.measured.reason}" if isinstance(cell.measured, Missing) else show(cell.measured)
    published = f"n/a: {cell.published.reason}" if isinstance(cell.published, Missing) else show(cell.published)
    around = ends(cell.measured_interval, show) if cell.measured_interval else ""
    moved = ends(cell.measured_change_interval, signed) if cell.measured_change_interval else ""
    return (
        cell.label,
        cell.variant or "",
        TITLES.get(cell.metric, cell.metric),
        published,
        change(cell.published_change),
        measured,
        around,
        change(cell.measured_change),
        moved,
        "" if cell.ratio is None else f"{number(cell.ratio, 3)}×",
        AGREES[cell.agrees] if cell.published_change is not None or cell.ratio is not None else "",
    )


def published_figures(reproduction: Reproduction) -> Twin:
    """A published table's differences from BF16, and what so many items say about them."""
    rows = tuple(
        (
            each.label,
            each.task,
            f"{each.n:,}",
            signed(each.points, 2),
            f"{each.items:+,}".replace("-", "−"),
            ends(each.interval, signed),
            number(each.z, 2),
            "yes" if each.within_noise else "no",
        )
        for each in reproduction.differences
    )
    head = ("Published as", "Task", "Items", "Difference (points)", "In items", "95 %", "z", "Within noise")
    return Twin(head, rows)


def printed_figures(reproduction: Reproduction) -> Twin:
    """The percentages that the study prints, computed again from the figures that it prints."""
    rows = tuple(
        (
            each.label,
            TITLES.get(each.metric, each.metric),
            f"{signed(each.printed)} %",
            f"{signed(each.recomputed)} %",
            "a slip" if each.is_slip else "as computed",
        )
        for each in reproduction.printed
    )
    return Twin(("Published as", "Metric", "Printed", "From the printed figures", ""), rows)
