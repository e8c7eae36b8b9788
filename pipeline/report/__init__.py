"""`report`: tables and charts from what `compare/` computes; reads manifests and result files, makes nothing else.

* `sources`, `extract`, `cards`: from manifests to plain data,
* `summary`, `calibration`: what the calibrations behind the rows saw; `sweeps`: results of other calibrations,
* `document`: the report as data; `cells`, `sweep_cells`: its tables as text,
* `terminal`, `markdown`, `flat`, `page` (with `charts`, and `calibration_view` for its section): the renderers,
* `files`: where the results are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.errors import PipelineError
    from pipeline.job import Job


def make(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> None:
    """Writes the report of these jobs, shows it on the terminal, and prints it as one JSON line last.

    Raises:
        StageError: when the report's folder cannot be written.
    """
    from pipeline.report import files, flat, markdown, terminal
    from pipeline.report.build import build
    from pipeline.report.cells import Table

    report = build(jobs, failures)
    table = Table.of(report.comparison)
    settings, workspace, console = jobs[0].settings, jobs[0].workspace, jobs[0].progress.console
    contents: dict[str, str] = {}
    for kind in settings.report.formats:
        if kind == "html":
            from pipeline.report.page import render

            contents[kind] = render(report, table)
        elif kind == "md":
            contents[kind] = markdown.render(report, table)
        elif kind == "csv":
            contents[kind] = flat.to_csv(report.comparison)
        else:
            contents[kind] = report.model_dump_json(indent=1)
    written = files.publish(workspace.root / settings.model.name / "report", contents)
    terminal.render(report, table, console)
    page = next((str(written[kind]) for kind in files.NAMES if kind in written), "")
    console.print(f"\nReport: {page}" if page else "", markup=False, soft_wrap=True)
    print(flat.to_line(report, page), flush=True)
