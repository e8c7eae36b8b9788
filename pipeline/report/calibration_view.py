"""What the page shows of one calibration: its texts, charts and tables, made once each."""

from __future__ import annotations

from typing import Any

from pipeline.report import calibration_charts as charts
from pipeline.report import calibration_details as details
from pipeline.report.document import Calibration, Seen
from pipeline.report.svg import drawn


def view(calibration: Calibration, index: int) -> dict[str, Any]:
    """Everything that the template asks for; `index` keeps the charts of several calibrations apart."""
    seen = calibration.seen
    users = details.users(calibration)
    if not isinstance(seen, Seen):
        return {"users": users, "missing": seen.reason}

    def name(chart: str) -> str:
        return f"{chart}-{index}"

    return {
        "users": users,
        "missing": "",
        "seen": seen,
        "tolerance": details.percent(seen.tolerance),
        "facts": details.facts(calibration, seen),
        "sources": details.source_figures(seen),
        "overlap": details.overlap_figures(seen),
        "kinds": charts.kind_styles(seen),
        "techniques": charts.technique_styles(seen),
        "ranges": drawn(charts.range_chart(seen, name("ranges"))),
        "range_figures": details.range_figures(seen),
        "outliers": drawn(charts.outlier_chart(seen, name("outliers"))),
        "outlier_figures": details.clip_figures(seen, details.outlier_names(seen)),
        "histograms": details.histogram_figures(seen),
        "settling": drawn(charts.settling_chart(seen, name("settling"))),
        "settling_figures": details.settling_figures(seen),
        "lengths": drawn(charts.length_chart(seen.card.lengths, name("lengths"))),
        "length_figures": details.length_figures(seen.card.lengths),
        "clip_figures": details.clip_figures(seen),
        "stability_figures": details.stability_figures(seen),
    }
