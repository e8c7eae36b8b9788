"""Comparison of engines that make the same format."""

from __future__ import annotations

from pipeline.compare.engine_agreement import Engines
from pipeline.stages.report.blocks import Block, Heading, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import number


def section(report: Report) -> Section | None:
    """Return a table for each format that several engines made."""
    if not report.engines:
        return None
    blocks: list[Block] = [
        lead(
            "One format by several engines, from the same conversations. Weight error is |W - V| / |W| of the BF16 "
            "weight W and the dequantized weight V, over all quantized layers. GPTQ trades weight error for output "
            "error and AutoRound minimizes output error alone, so an engine is compared with the best of its "
            "algorithm; the last column is the distance of served log-probabilities of fixed texts from BF16's, in "
            "their standard deviations."
        )
    ]
    for engines in report.engines:
        blocks += [Heading(engines.scheme), engine_table(engines)]
    return Section("engines", "Agreement of engines", "Engines", blocks, is_expert=True)


def engine_table(engines: Engines) -> Table:
    """Return weight error and log-probability distance of each engine, and its agreement within its algorithm."""
    rows = [
        (
            row.label,
            row.engine,
            row.algorithm,
            number(row.mean, 4),
            "n/a" if row.ratio is None else number(row.ratio, 3),
            {None: "n/a", True: "yes", False: "no"}[row.agrees],
            f"{number(row.worst, 4)} ({row.worst_module})",
            "n/a" if row.distance is None else number(row.distance, 4),
        )
        for row in engines.rows
    ]
    head = ("Variant", "Engine", "Algorithm", "Weight error", "Ratio to the best of its algorithm", "Within 10 %")
    return Table(
        (*head, "Worst layer", "Distance of log-probabilities from BF16's"), rows, f"Engines of {engines.scheme}"
    )
