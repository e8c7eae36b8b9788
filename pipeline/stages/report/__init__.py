"""`report`: tables and charts of the results of `compare/`; it reads manifests and result files, and writes the report.

* `collect/`: from manifests to plain data,
* `document`: the report as data, assembled by `build`,
* `sections/`: one module per subject, from the report to blocks (`blocks`): texts, tables, charts (`vega/`),
* `renderers/`: from blocks to terminal, Markdown, HTML and PNG; CSV and JSON from the report itself,
* `files`: writing the output files,
* `gate`: this run against a stored one; `mlflow`: the same figures in MLflow.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Command, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.errors import PipelineError
    from pipeline.job import Job
    from pipeline.stages.report.blocks import Page
    from pipeline.stages.report.document import Report


def check(settings: Settings) -> None:
    """Check the report's inputs before any work starts.

    Raises:
        PipelineError: if an earlier run cannot be read, or MLflow is requested and not installed.
    """
    if settings.report.runs or settings.report.baseline:
        from pipeline.stages.report.collect.past_runs import earlier

        earlier(settings)
    if settings.report.mlflow:
        from pipeline.stages.report import mlflow

        mlflow.check(settings.report.mlflow)


def make(jobs: Sequence[Job], failures: Mapping[str, PipelineError]) -> dict[str, PipelineError]:
    """Write the report of these jobs and compare it with a stored one, as requested by `stage`.

    If standard output is not a terminal, or `report.json_line` is set, its last line is the result as JSON.

    Returns:
        the regressions from the baseline, by variant.

    Raises:
        StageError: if the report's folder or the tracking store cannot be written.
    """
    from pipeline.stages.report import gate
    from pipeline.stages.report.vega import svg

    settings, console = jobs[0].settings, jobs[0].progress.console
    if Command.REPORT in settings.stage and {"html", "png"} & set(settings.report.formats):
        svg.warm_up()
    from pipeline.stages.report.build import build

    report = build(jobs, failures)
    worse: dict[str, PipelineError] = {}
    if Command.GATE in settings.stage:
        worse |= gate.gate(report, settings, console)
    if Command.REPORT in settings.stage:
        _write(report, settings, jobs[0].workspace.root, console)
    return worse


def _write(report: Report, settings: Settings, outputs: Path, console: Console) -> None:
    from pipeline.stages.report import files, sections
    from pipeline.stages.report.renderers import csv_json, terminal

    page = sections.page(report)
    contents: dict[str, str | bytes] = {}
    for kind in settings.report.formats:
        contents |= _files(kind, report, page)
    folder = outputs / settings.model.name / "report"
    files.publish(folder, contents)
    terminal.render(page, console)
    first = next((name for name in (*files.REPORT_FILES, *contents) if name in contents), None)
    html = str(folder / first) if first else ""
    console.print(f"\nReport: {html}" if html else "", markup=False, soft_wrap=True)
    wanted = settings.report.json_line
    if wanted or (wanted is None and not sys.stdout.isatty()):
        print(csv_json.to_line(report, html), flush=True)
    if settings.report.mlflow:
        from pipeline.stages.report import mlflow

        mlflow.log(report, folder, settings.report.mlflow)


def _files(kind: str, report: Report, page: Page) -> dict[str, str | bytes]:
    """Return the files of one format, by name below the report's folder."""
    from pipeline.stages.report.renderers import csv_json, markdown

    if kind == "html":
        from pipeline.stages.report.renderers import html

        return {"index.html": html.render(page)}
    if kind == "png":
        from pipeline.stages.report.renderers import png

        return {f"charts/{name}": content for name, content in png.render(page).items()}
    if kind == "md":
        return {"report.md": markdown.render(page)}
    if kind == "csv":
        return {"report.csv": csv_json.to_csv(report), "report_long.csv": csv_json.to_long_csv(report.comparison)}
    return {"report.json": report.model_dump_json(indent=1)}
