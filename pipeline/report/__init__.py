"""`report`: tables and charts from what `compare/` computes; reads manifests and result files, makes nothing else.

* `gather/`: from manifests to plain data,
* `document`: the report as data, which `build` puts together,
* `tables/`, `charts/`: what it shows, as text and as Vega-Lite,
* `formats/`: the renderers,
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
    from pipeline.report import files
    from pipeline.report.build import build
    from pipeline.report.formats import flat, markdown, terminal
    from pipeline.report.tables.study import Table

    report = build(jobs, failures)
    table = Table.of(report.comparison)
    settings, workspace, console = jobs[0].settings, jobs[0].workspace, jobs[0].progress.console
    contents: dict[str, str] = {}
    for kind in settings.report.formats:
        if kind == "html":
            from pipeline.report.formats.page import render

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
