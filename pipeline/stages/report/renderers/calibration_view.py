"""What the page shows of one calibration: its texts, charts and tables, made once each."""

from __future__ import annotations

from typing import Any

from pipeline.stages.report.charts import calibration as charts
from pipeline.stages.report.document import Calibration, Seen
from pipeline.stages.report.tables import calibration as details


def view(calibration: Calibration, index: int) -> dict[str, Any]:
    """Everything that the template asks for; `index` keeps the charts of several calibrations apart."""
    seen = calibration.seen
    users = details.users(calibration)
    if not isinstance(seen, Seen):
        return {"users": users, "missing": seen.reason}

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
        "ranges": f"ranges-{index}",
        "range_figures": details.range_figures(seen),
        "outliers": f"outliers-{index}",
        "outlier_figures": details.clip_figures(seen, details.outlier_names(seen)),
        "histograms": details.histogram_figures(seen),
        "settling": f"settling-{index}",
        "settling_figures": details.settling_figures(seen),
        "lengths": f"lengths-{index}",
        "length_figures": details.length_figures(seen.card.lengths),
        "clip_figures": details.clip_figures(seen),
        "stability_figures": details.stability_figures(seen),
    }
