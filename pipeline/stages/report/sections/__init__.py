"""The sections of the report, one module per subject: from the report as data to blocks that every renderer can write.

The module of a section has its texts, tables and charts; to add a chart or table, add a block there.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.stages.report.blocks import Page, Section
from pipeline.stages.report.document import Report
from pipeline.stages.report.sections import (
    accuracy,
    calibration,
    calibration_sweep,
    engines,
    frontier,
    history,
    memory,
    mixes,
    published_study,
    reading,
    results,
    roofline,
    run_it,
    speed,
    spending,
    variants,
    verdict,
)

# In the order of the page, the methods and their checks last; a section is None if the report has no data for it.
SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    verdict.section,
    results.section,
    speed.section,
    accuracy.section,
    memory.section,
    run_it.section,
    history.section,
    spending.section,
    frontier.section,
    mixes.section,
    roofline.section,
    published_study.section,
    engines.section,
    calibration_sweep.section,
    calibration.section,
    variants.section,
    reading.section,
)


def page(report: Report) -> Page:
    """Return the report as blocks."""
    return Page(
        title=report.title,
        model=report.model,
        machine=report.machine,
        measured=report.measured,
        variants=len(report.comparison.rows),
        schema_version=report.schema_version,
        sections=[section for make in SECTIONS if (section := make(report)) is not None],
    )
