"""Use of the minutes of a study with a budget, and why each variant was or was not measured in full."""

from __future__ import annotations

import math

from pipeline.stages.report.blocks import Section, Table, lead
from pipeline.stages.report.document import Report, Spent
from pipeline.stages.report.number_format import number


def section(report: Report) -> Section | None:
    """Return the table of what was measured of each variant; None without a budget."""
    spending = report.spending
    if spending is None:
        return None
    bench = math.fsum(row.bench_minutes for row in spending.rows)
    scoring = math.fsum(row.eval_minutes for row in spending.rows)
    labels = {row.name: row.label for row in report.comparison.rows}
    blocks = [
        lead(
            "Every variant was screened by one repeat of the load and the divergence on a few conversations. Further "
            "blocks and items were measured only of those that might still be the answer: the fastest with a clear "
            "gain over BF16 that loses no accuracy. Minutes include the starts of servers. "
            f"Benchmarks took {_of(bench, spending.bench_budget)}, evaluations {_of(scoring, spending.eval_budget)}."
        ),
        Table(
            (
                "Variant",
                "Throughput in the screen",
                "KL in the screen (nats/token)",
                "Blocks",
                "Items",
                "Bench (min)",
                "Eval (min)",
                "Outcome",
            ),
            [_row(row, labels.get(row.name, row.name)) for row in spending.rows],
            "What was measured of each variant",
        ),
    ]
    return Section("spending", "Where the minutes were spent", "Spending", blocks)


def _of(minutes: float, budget: float | None) -> str:
    return f"{number(minutes, 1)} minutes" + ("" if budget is None else f" of {number(budget, 1)}")


def _row(row: Spent, label: str) -> tuple[str, ...]:
    kl = "" if row.kl is None else f"{number(row.kl.low, 4)} to {number(row.kl.high, 4)}"
    return (
        label,
        row.screen,
        kl,
        str(row.blocks),
        f"{row.items:,} of {row.items_of:,}",
        number(row.bench_minutes, 1),
        number(row.eval_minutes, 1),
        row.outcome,
    )
