"""The report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pipeline.compare.decide.recommendation import open_points
from pipeline.compare.history import History
from pipeline.stages.report.document import Report, Seen
from pipeline.stages.report.tables import decision, reference, roofline, serving, twins
from pipeline.stages.report.tables import history as histories
from pipeline.stages.report.tables.calibration import facts, headline, overlap_text, verdict_of
from pipeline.stages.report.tables.loads import load_tables
from pipeline.stages.report.tables.study import Cell, Table
from pipeline.stages.report.tables.sweep import SweepTable
from pipeline.stages.report.tables.twins import Twin

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def escape(text: str) -> str:
    """Text that Markdown, and the HTML that Markdown lets through, shows as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def render(report: Report, table: Table) -> str:
    """What the page says and its charts show, in its order: sentences and tables."""
    chosen = report.recommendation
    lines = [f"# {escape(report.title)}", "", f"**{escape((chosen or report.verdict).answer.text)}**", ""]
    said = [
        *([sentence.text for sentence in chosen.reasons] if chosen else []),
        *(p.text for p in report.verdict.points),
    ]
    lines += _bullets(said + (open_points(chosen) if chosen else []))
    if chosen and not chosen.constraints.is_empty:
        lines += _twins("Under your constraints", [("Each variant", decision.constraint_figures(chosen))])
    if report.comparison.is_measured and len(report.comparison.rows) > 1 and report.frontiers:
        lines += _twins("Quality against cost", [("Who is on the frontier", decision.standing_figures(report))])
    titles = [f"{escape(column.title)} ({escape(column.unit)})" for column in table.columns]
    lines += ["", "## Results", "", _line(["Variant", *titles]), _line(["---", *(["---:"] * len(titles))])]
    for row in table.rows:
        lines.append(_line([escape(row.label), *(_cell(cell) for cell in row.cells)]))
    lines += ["", *_bullets(table.legend)]
    lines += _twins("Load by load", load_tables(report.comparison))
    lines += _twins("Accuracy against BF16", list(_accuracy(report, table)))
    lines += _twins("Memory", [("While serving", serving.memory_figures(report.comparison))])
    lines += _twins("What the hardware would allow", list(_rooflines(report)))
    lines += _study(report)
    if report.history is not None:
        lines += _twins("What changed between the runs", list(_history(report.history)))
    lines += _twins("Do the engines agree?", [(each.scheme, twins.engine_figures(each)) for each in report.engines])
    lines += _sweeps(report)
    lines += _calibrations(report)
    lines += ["", "## Setup", "", *_bullets(f"{name}: {value}" for name, value in report.setup.items()), ""]
    return "\n".join(lines)


def _accuracy(report: Report, table: Table) -> Iterator[tuple[str, Twin]]:
    yield "Task by task", twins.task_figures(table)
    yield "KL divergence, agreement and perplexity", twins.divergence_figures(report.comparison)


def _rooflines(report: Report) -> Iterator[tuple[str, Twin]]:
    for each in report.rooflines:
        yield f"{each.device.name}{', predicted' if each.predicted else ''}", roofline.roofline_figures(each)
    if report.roofline_check is not None:
        yield "How far to trust it: the same for the study's tables", roofline.error_figures(report.roofline_check)


def _study(report: Report) -> list[str]:
    lines = ["", "## The published study, again"] if report.reproductions else []
    for each in report.reproductions:
        lines += _table(f"{each.title}: {each.basis}, {each.why}", reference.reproduction_figures(each))
        lines += ["", *_bullets(sentence.text for sentence in each.statements)] if each.statements else []
    return lines


def _history(history: History) -> Iterator[tuple[str, Twin]]:
    yield "Results", histories.result_figures(history)
    yield "Settings that differ", histories.setting_figures(history, history.settings)
    yield "Versions that differ", histories.setting_figures(history, history.versions)


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
    """Small tables under one heading; those that hold nothing are left out."""
    shown = [(name, twin) for name, twin in tables if twin.rows]
    return [*(["", f"## {title}"] if shown else []), *(line for each in shown for line in _table(*each))]


def _table(name: str, twin: Twin) -> list[str]:
    lines = ["", f"### {escape(name)}", "", _line([escape(title) for title in twin.head])]
    return [*lines, _line(["---"] * len(twin.head)), *(_line([escape(cell) for cell in row]) for row in twin.rows)]


def _bullets(sentences: Iterable[str]) -> list[str]:
    return [f"- {escape(sentence)}" for sentence in sentences]


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
