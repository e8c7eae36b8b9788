"""Several runs side by side: results, settings and versions that differ."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.compare.history import MOVEMENTS, Figure, History, ResultChange, SettingChange
from pipeline.stages.report.blocks import Block, Details, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import figure, format_interval, number, signed

# Decimals of a figure by its unit, so that two runs are read in the same form.
DIGITS = {"bytes": 0, "%": 2}
LEGEND = (
    "Worse and better: beyond noise after Holm's correction for all figures, for speed beyond the variation between "
    "sessions as well ({tolerance:g} %, report.tolerance_percent). Unchanged: a change beyond {tolerance:g} % (speed, "
    "size, KL) or a loss beyond the task's margin is ruled out. Cannot tell: neither is shown."
)


def section(report: Report) -> Section | None:
    """Return the results of the runs, then the settings and versions that differ."""
    history = report.history
    if history is None:
        return None
    runs = (f"{run.name} ({run.machine}{f', {run.measured}' if run.measured else ''})" for run in history.runs)
    legend = LEGEND.format(tolerance=history.tolerance_percent)
    blocks: list[Block] = [
        lead(f"{', then '.join(runs)}."),
        Prose(f"{history.summary}."),
        result_table(history),
        Prose(legend),
    ]
    for title, changes in (("Settings that differ", history.settings), ("Versions that differ", history.versions)):
        if changes:
            blocks.append(Details(title, [setting_table(title, history, changes)]))
    return Section("history", "Changes between runs", "History", blocks)


def result_table(history: History) -> Table:
    """Return each figure of each run, regressions first."""
    changes = sorted(history.results, key=lambda change: MOVEMENTS.index(change.movement))
    head = ("Variant", "Figure", *(run.name for run in history.runs), "Change", "95 %", "Verdict")
    return Table(head, [_row(change) for change in changes], "Results of the runs", "left")


def _row(change: ResultChange) -> tuple[str, ...]:
    shown = (_figure(each, change.unit) for each in change.figures)
    moved = "" if change.change is None else signed(change.change)
    around = format_interval(change.interval, signed) if change.interval else ""
    verdict = f"{change.movement}: {change.reason}" if change.reason else change.movement
    return (change.label, f"{change.title} ({change.unit})", *shown, moved, around, verdict)


def _figure(found: Figure | None, unit: str) -> str:
    if found is None:
        return "not measured"
    return number(found.value, DIGITS[unit]) if unit in DIGITS else figure(found.value)


def setting_table(caption: str, history: History, changes: Sequence[SettingChange]) -> Table:
    """Return the value in each run."""
    rows = tuple((each.variant, each.name, *("none" if v is None else v for v in each.values)) for each in changes)
    return Table(("Variant", "Name", *(run.name for run in history.runs)), rows, caption, "left")
