"""The report as one HTML file: style, charts and script are inside, so it opens offline and can be forwarded."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pipeline.report.charts import draw, every_chart
from pipeline.report.charts.looks import FAMILY_COLOURS, FAMILY_SHAPES
from pipeline.report.charts.outliers import FORMAT
from pipeline.report.document import Report
from pipeline.report.formats.view import view
from pipeline.report.tables.calibration import moving_sites
from pipeline.report.tables.loads import load_tables
from pipeline.report.tables.study import Cell, Table
from pipeline.report.tables.sweep import SweepTable
from pipeline.report.tables.twins import (
    divergence_figures,
    engine_figures,
    every_metric,
    quality_figures,
    size_figures,
    task_figures,
)
from pipeline.report.text import MINUS, duration

KINDS = {"speed": "Speed", "quality": "Accuracy", "size": "Size", "caveat": "Caveats", "scope": "Scope"}


def render(report: Report, table: Table) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("pipeline.report.formats"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["breakable"] = breakable
    families = dict.fromkeys(row.family for row in table.rows)
    template = environment.get_template("page.html.jinja")
    return template.render(
        report=report,
        table=table,
        points=[(KINDS[kind], [p for p in report.verdict.points if p.kind == kind]) for kind in KINDS],
        cells=merged,
        charts=draw.svgs(every_chart(report).values()),
        families=[(family, FAMILY_COLOURS[family], FAMILY_SHAPES[family]) for family in families],
        has_emulated=any(not row.claims_speed for row in report.comparison.rows),
        has_baseline=report.comparison.baseline is not None,
        quality_figures=quality_figures(report.comparison),
        task_figures=task_figures(table),
        divergence_figures=divergence_figures(report.comparison),
        size_figures=size_figures(table),
        every_metric=every_metric(report.comparison),
        load_tables=load_tables(report.comparison),
        minus=MINUS,
        is_measured=report.comparison.is_measured,
        calibrations=[view(calibration, index) for index, calibration in enumerate(report.calibrations)],
        moving_sites=moving_sites,
        format=FORMAT,
        engines=[(each.scheme, engine_figures(each)) for each in report.engines],
        sweeps=[SweepTable.of(sweep) for sweep in report.sweeps],
    )


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
