"""The report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re

from pipeline.report.cells import Cell, Table
from pipeline.report.document import Report

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
    lines += ["", "## Setup", "", *(f"- {escape(name)}: {escape(value)}" for name, value in report.setup.items()), ""]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}** (best)" if cell.is_best else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
