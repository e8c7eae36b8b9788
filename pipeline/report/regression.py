"""`stage=gate`: fails when a variant became worse than a stored report beyond noise, for use in CI.

What cannot be told (another machine, another load, no interval) is shown and does not fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.compare.history import ResultChange
from pipeline.errors import Regression
from pipeline.report.gather.runs import earlier, side_by_side
from pipeline.report.text import number, signed

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Settings
    from pipeline.report.document import Report

STYLES = {"worse": "red", "gone": "red", "better": "green", "new": "green", "same": "dim", "unknown": "yellow"}


def gate(report: Report, settings: Settings, console: Console) -> dict[str, Regression]:
    """Shows every figure against the baseline's; the variants that became worse, each with what did.

    Raises:
        InputError: when the baseline cannot be read.
    """
    stored = earlier(settings)[-1:]
    found = side_by_side(stored, report, settings.report.tolerance_percent)
    assert found is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title=f"Against {stored[0][0]}")
    for heading in ("Variant", "Figure", "before", "now", "change (95 % interval)", ""):
        table.add_column(heading)
    for change in found.results:
        table.add_row(*_cells(change), Text(change.movement, style=STYLES[change.movement]))
    console.print(table)
    worse: dict[str, list[ResultChange]] = {}
    for change in found.regressions:
        worse.setdefault(change.variant, []).append(change)
    console.print(
        f"{len(found.regressions)} of {len(found.results)} figures became worse than the baseline's beyond noise."
    )
    return {
        variant: Regression(
            f"worse than {stored[0][0]}: {'; '.join(_sentence(change) for change in changes)}.",
            "Find the cause, or make this run the baseline.",
        )
        for variant, changes in worse.items()
    }


def _cells(change: ResultChange) -> list[str]:
    then, now = change.figures[-2:]
    digits = 5 if change.unit == "nats/token" else 0 if change.unit == "bytes" else 2
    figures = ["" if figure is None else number(figure.value, digits) for figure in (then, now)]
    return [change.label, f"{change.title} ({change.unit})", *figures, _size(change) or change.reason]


def _size(change: ResultChange) -> str:
    if change.change is None:
        return ""
    digits = 5 if change.unit == "nats/token" else 1
    text = f"{signed(change.change, digits)} {_unit(change)}"
    if change.interval is None or change.unit == "bytes":
        return text
    return f"{text} ({signed(change.interval.low, digits)} to {signed(change.interval.high, digits)})"


def _unit(change: ResultChange) -> str:
    return {"%": "points", "nats/token": "nats/token"}.get(change.unit, "%")


def _sentence(change: ResultChange) -> str:
    if change.movement == "gone":
        return f"{change.title} is gone ({change.reason})"
    return f"{change.title} {_size(change)}"
