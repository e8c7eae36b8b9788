"""Quality against cost: the chart of accuracy and throughput, and the variants on the frontier."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.frontier import Frontier
from pipeline.compare.statements import within_text
from pipeline.stages.report.blocks import PAGE, Block, Details, Heading, Key, Mark, Picture, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import decimals, number, signed
from pipeline.stages.report.sections.frontier_chart import quality_chart, quality_points
from pipeline.stages.report.vega.styles import FAMILY_COLOURS, FAMILY_SHAPES

TITLE = "Variants on the frontier"


def section(report: Report) -> Section | None:
    """Return the chart, and each variant's standing with its reason."""
    comparison = report.comparison
    if not comparison.is_measured:
        return None
    blocks: list[Block] = []
    against = " compared with BF16" if comparison.baseline else ""
    if chart := quality_chart(comparison, report.frontiers):
        blocks += [lead(_explanation(comparison)), Key(list(_marks(report)), media=PAGE)]
        blocks.append(Picture(chart, [quality_table(comparison)], media=PAGE))
    else:
        missing = f"n/a: the chart needs at least two variants with both a throughput and every accuracy{against}."
        blocks.append(Prose(missing, "empty", media=PAGE))
    if any(place.standing != "cannot tell" for frontier in report.frontiers for place in frontier.places):
        blocks += [
            Heading(TITLE, media=PAGE),
            lead(
                "On: no other variant is better on both axes. Off: another variant is clearly better on one axis and "
                "no worse on the other. Cannot tell: neither is shown."
            ),
            standing_table(report),
            Details("Reasons for each standing", list(_reasons(report)), media=PAGE),
        ]
    return Section("frontier", "Quality against throughput", "Frontier", blocks, is_expert=True)


def _explanation(comparison: Comparison) -> str:
    axes = "Right is faster, up is more accurate. The dashed lines cross at BF16. " if comparison.baseline else ""
    touching = "; where a bar touches the horizontal line, no change of accuracy is shown"
    bars = f"Bars are 95 % intervals{touching if comparison.baseline else ''}."
    return f"{axes}{bars} Hover over a point for its figures."


def _marks(report: Report) -> Iterator[Mark]:
    for family in dict.fromkeys(row.family for row in report.comparison.rows):
        name = "BF16" if family == "baseline" else family
        yield Mark(name, FAMILY_COLOURS[family], FAMILY_SHAPES[family])
    if any(place.standing == "on" for frontier in report.frontiers[:1] for place in frontier.places):
        yield Mark("on the frontier", "var(--accent)", "ring")
        yield Mark("off it", sample="grey name")


def _reasons(report: Report) -> Iterator[Block]:
    for frontier in report.frontiers:
        table = frontier_table(frontier, report.comparison)
        yield Heading(table.caption, 4)
        yield table


def quality_table(comparison: Comparison) -> Table:
    """Return the figures of the scatter plot."""
    points = quality_points(comparison)
    digits = decimals(point.x for point in points)
    rows = []
    for p in points:
        across = f"{number(p.x_low, digits)} to {number(p.x_high, digits)}" if p.x_low < p.x_high else "n/a"
        show = partial(signed if comparison.baseline else number, digits=2)
        quality = "baseline" if p.is_baseline else show(p.y)
        down = f"{show(p.y_low)} to {show(p.y_high)}" if p.y_low < p.y_high else "n/a"
        rows.append((p.label, number(p.x, digits), across, quality, down))
    quality = "Accuracy against BF16 (points, mean of tasks)" if comparison.baseline else "Mean accuracy (%)"
    return Table(
        ("Variant", f"{comparison.throughput.title} (tok/s)", "95 %", quality, "95 %"),
        rows,
        "Quality against throughput",
    )


def standing_table(report: Report) -> Table:
    """Return each variant's standing for accuracy against each cost."""
    names = [frontier.cost.title for frontier in report.frontiers]
    rows = []
    for row in report.comparison.rows:
        places = [{place.name: place.standing for place in frontier.places} for frontier in report.frontiers]
        rows.append((row.label, *(standings.get(row.name, "n/a") for standings in places)))
    return Table(("Variant", *(f"Accuracy against {within_text(name)}" for name in names)), rows, TITLE)


def frontier_table(frontier: Frontier, comparison: Comparison) -> Table:
    """Return each variant's standing, with its reason."""
    labels = {row.name: row.label for row in comparison.rows}
    rows: list[tuple[str, ...]] = [(place.label, place.standing, place.statement.text) for place in frontier.places]
    rows += [(labels.get(name, name), "n/a", reason) for name, reason in frontier.absent.items()]
    return Table(
        ("Variant", "Standing", "Why"), rows, f"{frontier.quality.title} against {frontier.cost.title}", "left"
    )
