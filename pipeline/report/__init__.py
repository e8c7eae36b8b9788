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
    from pipeline.report.document import Report
    from pipeline.report.tables.study import Table


def make(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> None:
    """Writes the report of these jobs, shows it on the terminal, and prints it as one JSON line last.

    Raises:
        StageError: when the report's folder cannot be written.
    """
    from pipeline.report import files
    from pipeline.report.build import build
    from pipeline.report.formats import flat, terminal
    from pipeline.report.tables.study import Table

    report = build(jobs, failures)
    table = Table.of(report.comparison)
    settings, workspace, console = jobs[0].settings, jobs[0].workspace, jobs[0].progress.console
    contents: dict[str, str | bytes] = {}
    for kind in settings.report.formats:
        contents |= _files(kind, report, table)
    folder = workspace.root / settings.model.name / "report"
    files.publish(folder, contents)
    terminal.render(report, table, console)
    first = next((name for name in (*files.OWN, *contents) if name in contents), None)
    page = str(folder / first) if first else ""
    console.print(f"\nReport: {page}" if page else "", markup=False, soft_wrap=True)
    print(flat.to_line(report, page), flush=True)


def _files(kind: str, report: Report, table: Table) -> dict[str, str | bytes]:
    """What one format consists of, by name below the report's folder."""
    from pipeline.report.formats import flat, markdown

    if kind == "html":
        from pipeline.report.formats import page

        return {"index.html": page.render(report, table)}
    if kind == "png":
        from pipeline.report.formats import slides

        return {f"charts/{name}": content for name, content in slides.render(report).items()}
    if kind == "md":
        return {"report.md": markdown.render(report, table)}
    if kind == "csv":
        return {"report.csv": flat.to_csv(report.comparison)}
    return {"report.json": report.model_dump_json(indent=1)}
