"""The report's charts as Vega-Lite, in a wide and a narrow layout; every figure that is drawn stands in a table too.

Building them by way of Altair takes ten times as long as drawing them, so they are written as they are, and a test
holds them against Altair's schema. In `report/vega/`, `spec` has the parts they share, `styles` tells things apart,
`svg` draws.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.stages.report.charts.calibration import length_chart, range_chart, settling_chart
from pipeline.stages.report.charts.forest import forest_chart
from pipeline.stages.report.charts.ladder import ladder_chart
from pipeline.stages.report.charts.latency import latency_chart
from pipeline.stages.report.charts.memory import memory_chart
from pipeline.stages.report.charts.outliers import outlier_chart
from pipeline.stages.report.charts.quality import quality_chart
from pipeline.stages.report.charts.reference import published_chart, reproduction_chart
from pipeline.stages.report.charts.roofline import check_chart, share_chart, what_if_chart
from pipeline.stages.report.charts.sizes import size_chart
from pipeline.stages.report.document import Report, Seen
from pipeline.stages.report.vega.spec import Chart


def every_chart(report: Report) -> dict[str, Chart]:
    """The charts that this report has figures for, by name; those of a calibration end in its number."""
    return {chart.name: chart for chart in _charts(report) if chart is not None}


def _charts(report: Report) -> Iterator[Chart | None]:
    yield quality_chart(report.comparison, report.frontiers)
    yield forest_chart(report.comparison)
    yield latency_chart(report.comparison)
    yield ladder_chart(report.comparison)
    yield memory_chart(report.comparison)
    yield size_chart(report.comparison)
    yield share_chart(report.rooflines)
    yield what_if_chart(report.rooflines)
    yield check_chart(report.roofline_check)
    for reproduction in report.reproductions:
        yield reproduction_chart(reproduction)
        yield published_chart(reproduction)
    for index, calibration in enumerate(report.calibrations):
        if isinstance(seen := calibration.seen, Seen):
            yield range_chart(seen, f"ranges-{index}")
            yield outlier_chart(seen, f"outliers-{index}")
            yield settling_chart(seen, f"settling-{index}")
            yield length_chart(seen.card.lengths, f"lengths-{index}")
