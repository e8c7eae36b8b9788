"""The report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re

from pipeline.report.document import Report, Seen
from pipeline.report.tables.calibration import facts, headline, overlap_text, verdict_of
from pipeline.report.tables.loads import load_tables
from pipeline.report.tables.study import Cell, Table
from pipeline.report.tables.sweep import SweepTable
from pipeline.report.tables.twins import Twin, engine_figures

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def escape(text: str) -> str:
    """Text that Markdown, and the HTML that Markdown lets through, shows as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def render(report: Report, table: Table) -> str:
    """Verdict, table, legend and the setup."""
    lines = [f"# {escape(report.title)}", "", f"**{escape(report.verdict.answer.text)}**", ""]
    lines += [f"- {escape(point.text)}" for point in report.verdict.points]
    titles = [f"{escape(column.title)} ({escape(column.unit)})" for column in table.columns]
    lines += ["", "## Results", "", _line(["Variant", *titles]), _line(["---", *(["---:"] * len(titles))])]
    for row in table.rows:
        lines.append(_line([escape(row.label), *(_cell(cell) for cell in row.cells)]))
    lines += ["", *(f"- {escape(line)}" for line in table.legend)]
    lines += _twins("Load by load", load_tables(report.comparison))
    lines += _sweeps(report)
    lines += _twins("Do the engines agree?", [(each.scheme, engine_figures(each)) for each in report.engines])
    lines += _calibrations(report)
    lines += ["", "## Setup", "", *(f"- {escape(name)}: {escape(value)}" for name, value in report.setup.items()), ""]
    return "\n".join(lines)


def _sweeps(report: Report) -> list[str]:
    lines = ["", "## What the calibration choices changed"] if report.sweeps else []
    for sweep in report.sweeps:
        table = SweepTable.of(sweep)
        titles = [
            f"{escape(title)} ({escape(unit)}{f'; {around}' if around else ''})" for title, unit, around in table.head
        ]
        lines += ["", f"### {escape(table.label)}", "", _line(["Technique", "Samples", *titles])]
        lines.append(_line(["---", *(["---:"] * (len(titles) + 1))]))
        for line in table.lines:
            name = escape(line.technique) + (" (shown above)" if line.is_current else "")
            lines.append(_line([name, line.samples, *(escape(cell.text) for cell in line.cells)]))
    return lines


def _twins(title: str, tables: list[tuple[str, Twin]]) -> list[str]:
    """Small tables under one heading."""
    lines = ["", f"## {title}"] if tables else []
    for name, twin in tables:
        lines += ["", f"### {escape(name)}", "", _line([escape(title) for title in twin.head])]
        lines.append(_line(["---"] * len(twin.head)))
        lines += [_line([escape(cell) for cell in row]) for row in twin.rows]
    return lines


def _calibrations(report: Report) -> list[str]:
    lines = ["", "## What calibration saw"] if report.calibrations else []
    for calibration in report.calibrations:
        lines += ["", escape(headline(calibration)), ""]
        if isinstance(seen := calibration.seen, Seen):
            lines += [f"- {escape(verdict_of(finding))}" for finding in seen.techniques]
            lines += [f"- {escape(name)}: {escape(value)}" for name, value in facts(calibration, seen).items()]
            lines += [
                f"- Source: {escape(each.source)} ({escape(each.identity)}), {each.taken:,} of {each.read:,}"
                for each in seen.card.sources
            ]
            lines += [
                f"- Overlap with {escape(each.evaluation)} ({escape(each.task)}): {escape(overlap_text(each))}"
                for each in seen.card.overlap
            ]
    return lines


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}** (best)" if cell.is_best else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
