"""The report as one HTML file: style, charts and script are inside, so it opens offline and can be forwarded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pipeline.compare.decide.recommendation import open_points
from pipeline.compare.stats.accuracy import Mean
from pipeline.stages.report.charts import every_chart
from pipeline.stages.report.charts.ladder import ladder_styles
from pipeline.stages.report.charts.latency import PERCENTILES, SHAPES
from pipeline.stages.report.charts.memory import PARTS
from pipeline.stages.report.charts.outliers import FORMAT
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import duration, signed
from pipeline.stages.report.renderers.calibration_view import view
from pipeline.stages.report.tables import decision, history, loads, reference, roofline, serving, twins
from pipeline.stages.report.tables.calibration import moving_sites
from pipeline.stages.report.tables.study import Cell, Table
from pipeline.stages.report.tables.sweep import SweepTable
from pipeline.stages.report.vega import svg
from pipeline.stages.report.vega.styles import FAMILY_COLOURS, FAMILY_SHAPES

KINDS = {"speed": "Speed", "quality": "Accuracy", "size": "Size", "caveat": "Caveats", "scope": "Scope"}


class Section(NamedTuple):
    """A part of the page: its template and anchor are called like it; `short` is its name among the contents."""

    name: str
    title: str
    short: str


class Tile(NamedTuple):
    """A figure of the recommended variant, large."""

    title: str
    value: str
    change: str
    star: str
    is_clear: bool
    is_gain: bool


def render(report: Report, table: Table) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("pipeline.stages.report.renderers"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["breakable"] = breakable
    families = dict.fromkeys(row.family for row in table.rows)
    charts = svg.svgs(every_chart(report).values())
    return environment.get_template("page.html.jinja").render(
        report=report,
        table=table,
        charts=charts,
        sections=list(_sections(report, charts)),
        tiles=list(_tiles(report, table)),
        points=[(KINDS[kind], [p for p in report.verdict.points if p.kind == kind]) for kind in KINDS],
        cells=merged,
        families=[(family, FAMILY_COLOURS[family], FAMILY_SHAPES[family]) for family in families],
        percentile_shapes=[(name, SHAPES[which]) for which, name in PERCENTILES.items()],
        ladder_looks=ladder_styles(report.comparison),
        memory_parts=list(PARTS.items()),
        has_emulated=any(not row.claims_speed for row in report.comparison.rows),
        has_frontier=any(place.standing == "on" for frontier in report.frontiers[:1] for place in frontier.places),
        has_baseline=report.comparison.baseline is not None,
        quality_figures=twins.quality_figures(report.comparison),
        task_figures=twins.task_figures(table),
        divergence_figures=twins.divergence_figures(report.comparison),
        size_figures=twins.size_figures(table),
        every_metric=twins.every_metric(report.comparison),
        serving=serving,
        loads=loads,
        twins=twins,
        rooflines=roofline,
        references=reference,
        histories=history,
        decision=decision,
        open_points=open_points,
        is_measured=report.comparison.is_measured,
        calibrations=[view(calibration, index) for index, calibration in enumerate(report.calibrations)],
        moving_sites=moving_sites,
        format=FORMAT,
        sweeps=[SweepTable.of(sweep) for sweep in report.sweeps],
    )


def _sections(report: Report, charts: dict[str, Markup]) -> Iterator[Section]:
    """The parts that there is something for, in the order of reading."""
    measured = report.comparison.is_measured
    yield Section("verdict", "Verdict", "Verdict")
    if measured:
        yield Section("frontier", "Quality against throughput", "Frontier")
    yield Section("results", "Results", "Results")
    if any(row.details or row.benchmarks for row in report.comparison.rows):
        yield Section("speed", "Latency and load", "Speed")
    if measured:
        yield Section("accuracy", "Accuracy against BF16, task by task", "Accuracy")
    if measured or "size" in charts:
        yield Section("memory", "Memory", "Memory")
    if report.rooflines or report.roofline_check is not None:
        yield Section("roofline", "What the hardware would allow", "Roofline")
    if report.reproductions:
        yield Section("study", "The published study, again", "Study")
    if report.history is not None:
        yield Section("history", "What changed between the runs", "History")
    if report.engines:
        yield Section("engines", "Do the engines agree?", "Engines")
    if report.sweeps:
        yield Section("sweep", "What the calibration choices changed", "Choices")
    if report.calibrations:
        yield Section("calibration", "What calibration saw", "Calibration")
    yield Section("variants", "The variants", "Variants")
    yield Section("reading", "How to read this", "Reading")


def _tiles(report: Report, table: Table) -> Iterator[Tile]:
    """What the recommended variant has in speed and size, and what became of its accuracy."""
    chosen = report.recommendation.recommended if report.recommendation else report.verdict.recommended
    index = next((i for i, row in enumerate(table.rows) if row.name == chosen), None)
    if index is None:
        return
    for column, cell in zip(table.columns, table.rows[index].cells, strict=True):
        if column.kind in ("speed", "size") and not cell.missing:
            value = f"{cell.value} {column.unit}"
            yield Tile(column.title, value, cell.change, cell.star, cell.is_clear, cell.is_gain)
    row = report.comparison.rows[index]
    if isinstance(change := row.mean_change, Mean):
        around = change.interval
        ends = f"{signed(100 * around.low)} to {signed(100 * around.high)}" if around else ""
        clear = around is not None and not around.contains(0.0)
        mean = f"{signed(100 * change.value)} points"
        yield Tile("Mean accuracy", mean, ends, "*" if clear else "", clear, clear and change.value > 0)


def breakable(text: str) -> Markup:
    """Text that may break after the separators of paths and names, so that it fits a phone."""
    safe = str(Markup.escape(text))
    return Markup(safe.replace("/", "/<wbr>").replace("_", "_<wbr>").replace("=", "=<wbr>"))


def merged(cells: tuple[Cell, ...]) -> Iterator[tuple[Cell, int, bool]]:
    """Cells with the columns they span, and whether to say why one is missing: neighbours of one reason become one."""
    index, told = 0, set[str]()
    while index < len(cells):
        span, reason = 1, cells[index].missing
        while reason and index + span < len(cells) and cells[index + span].missing == reason:
            span += 1
        yield cells[index], span, reason not in told
        told.add(reason)
        index += span
