"""Several runs side by side, as text."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.compare.history import Figure, History, ResultChange, SettingChange
from pipeline.stages.report.number_format import ends, figure, signed
from pipeline.stages.report.tables.twins import Twin

ORDER = ("worse", "gone", "better", "new", "unknown", "same")


def result_figures(history: History) -> Twin:
    """Each figure of each run, what became worse first."""
    changes = sorted(history.results, key=lambda change: ORDER.index(change.movement))
    head = ("Variant", "Figure", *(run.name for run in history.runs), "Change", "95 %", "Verdict")
    return Twin(head, tuple(_row(change) for change in changes))


def _row(change: ResultChange) -> tuple[str, ...]:
    shown = (_figure(each) for each in change.figures)
    moved = "" if change.change is None else signed(change.change)
    around = ends(change.interval, signed) if change.interval else ""
    verdict = f"{change.movement}: {change.reason}" if change.reason else change.movement
    return (change.label, f"{change.title} ({change.unit})", *shown, moved, around, verdict)


def _figure(found: Figure | None) -> str:
    return "n/a" if found is None else figure(found.value)


def setting_figures(history: History, changes: Sequence[SettingChange]) -> Twin:
    """What each run had."""
    rows = tuple((each.variant, each.name, *("none" if v is None else v for v in each.values)) for each in changes)
    return Twin(("Variant", "Name", *(run.name for run in history.runs)), rows)
