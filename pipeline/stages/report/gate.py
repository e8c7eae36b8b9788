"""`stage=gate`: fail if a variant became worse than a stored report beyond noise, for use in CI.

Figures that cannot be told, and those that cannot be compared (another machine, another load, no interval), are shown
and do not fail, unless `report.fail_on_undecided` is set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.compare.history import History, ResultChange
from pipeline.errors import PipelineError, Regression, StageError, Undecided
from pipeline.progress import Inert
from pipeline.results.text import json_line
from pipeline.stages.report import ci_files
from pipeline.stages.report.collect.past_runs import earlier, side_by_side
from pipeline.stages.report.number_format import number, signed

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Settings
    from pipeline.stages.report.document import Report

STYLES = {
    **{"worse": "red", "gone": "red", "better": "green", "new": "green", "unchanged": "dim"},
    **{"cannot tell": "yellow", "not compared": "yellow"},
}


def gate(report: Report, settings: Settings, console: Console) -> dict[str, PipelineError]:
    """Print the changes from the baseline, and the figures that cannot be compared.

    Returns:
        the variants that became worse, each with its regressions, and on request those that may have.

    Raises:
        InputError: if the baseline cannot be read.
        StageError: if nothing could be compared, which is not a pass.
    """
    stored = earlier(settings)[-1:]
    found = side_by_side(stored, report, settings.report.tolerance_percent)
    assert found is not None
    name = stored[0][0]
    ci_files.write(_cases(found, settings), name, settings)
    _show(found, name, console)
    compared = [change for change in found.results if change.movement not in ("not compared", "new")]
    if not compared:
        reasons = dict.fromkeys(change.reason for change in found.results if change.reason)
        raise StageError(
            f"stage=gate: no figure of this run can be compared with {name} ({'; '.join(reasons) or 'no results'}).",
            "Measure both on one machine, under one load, with at least two repeats.",
        )
    print(_line(found, name), flush=True)
    failed: dict[str, PipelineError] = {}
    if settings.report.fail_on_undecided:
        for variant, changes in _by_variant(found.undecided).items():
            failed[variant] = Undecided(
                f"not shown to be as good as {name}: {'; '.join(_sentence(change) for change in changes)}.",
                "Measure more items or repeats, or set report.fail_on_undecided=false.",
            )
    for variant, changes in _by_variant(found.regressions).items():
        failed[variant] = Regression(
            f"worse than {name}: {'; '.join(_sentence(change) for change in changes)}.",
            "Find the cause, or use this run as the baseline.",
        )
    return failed


def _by_variant(changes: Iterable[ResultChange]) -> dict[str, list[ResultChange]]:
    grouped: dict[str, list[ResultChange]] = {}
    for change in changes:
        grouped.setdefault(change.variant, []).append(change)
    return grouped


def _show(found: History, name: str, console: Console) -> None:
    """Print a table of the changes, and the count of each movement; unchanged figures are only counted."""
    title = Text(f"Against {name}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for heading in ("Variant", "Figure", "before", "now", "change"):
        table.add_column(heading)
    table.add_column("")
    for change in found.results:
        if change.movement != "unchanged":
            table.add_row(*map(Text, _cells(change)), Text(change.movement, STYLES[change.movement]))
    if table.row_count:
        console.print(Inert(table))
    console.print(found.summary, markup=False)
    if independent := sum(change.reason.endswith("to pair") for change in found.results):
        console.print(
            f"{independent} figures were compared as independent samples, which detects less: make the report of "
            f"{name} again with this release, or keep its outputs folder beside it.",
            markup=False,
        )


def _cases(found: History, settings: Settings) -> list[ci_files.Case]:
    """Return the figures as cases of a test; those that cannot be compared are skipped."""
    failing = [*found.regressions, *(found.undecided if settings.report.fail_on_undecided else ())]
    return [
        ci_files.Case(
            *_cells(change),
            word=change.movement,
            outcome="failed" if change in failing else "skipped" if change.interval is None else "passed",
        )
        for change in found.results
    ]


def _line(found: History, name: str) -> str:
    """Return the result as one line of JSON."""
    line = {
        "baseline": name,
        "summary": found.summary,
        "figures": Counter(change.movement for change in found.results),
        "regressions": [
            change.model_dump(include={"variant", "column", "unit", "change", "interval"})
            for change in found.regressions
        ],
    }
    return json_line(line)


def _cells(change: ResultChange) -> tuple[str, str, str, str, str]:
    then, now = change.figures[-2:]
    digits = 5 if change.unit == "nats/token" else 0 if change.unit == "bytes" else 2
    before, after = ("" if figure is None else number(figure.value, digits) for figure in (then, now))
    moved = "; ".join(filter(None, (_size(change), change.reason)))
    return change.label, f"{change.title} ({change.unit})", before, after, moved


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
    if change.movement == "not compared":
        return f"{change.title} cannot be compared ({change.reason})"
    return f"{change.title} {_size(change)}"
