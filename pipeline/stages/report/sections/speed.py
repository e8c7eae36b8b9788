"""Latency and load: percentiles, throughput from idle to saturation, goodput, and the guards of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.compare.comparison import Comparison
from pipeline.stages.report.blocks import PAGE, Block, Details, Heading, Key, Mark, Picture, Section, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.sections.latency import latency_blocks
from pipeline.stages.report.sections.load_ladder import ladder_chart, ladder_styles
from pipeline.stages.report.sections.loads import (
    failed_guard_table,
    goodput_table,
    guard_table,
    load_tables,
    smallest_gains,
)


def section(report: Report) -> Section | None:
    """Return latency percentiles, loads, goodput and guards."""
    comparison = report.comparison
    if not any(row.details or row.benchmarks for row in comparison.rows):
        return None
    blocks = [*latency_blocks(comparison), *_loads(comparison), *_goodput(comparison), *_guards(comparison)]
    return Section("speed", "Latency and load", "Speed", blocks)


def _loads(comparison: Comparison) -> Iterator[Block]:
    tables = load_tables(comparison)
    if chart := ladder_chart(comparison):
        yield Heading("From idle to saturation", media=PAGE)
        yield lead(
            "The same server under increasing load. With few requests in flight reading the weights dominates, with "
            "many the arithmetic does, so the order of formats may change. Both axes are logarithmic. A number of "
            "requests in flight is a closed load (the next request waits for an answer), a rate an open one."
        )
        styles = ladder_styles(comparison)
        yield Key([Mark(name, style.colour, style.shape, style.dash) for name, style in styles.items()], media=PAGE)
        yield Picture(chart, [block for table in tables[:1] for block in (table, *smallest_gains(comparison, table))])
        tables = tables[1:]
    yield from (Details(table.caption, [table, *smallest_gains(comparison, table)]) for table in tables)


def _goodput(comparison: Comparison) -> Iterator[Block]:
    table = goodput_table(comparison)
    if table.rows:
        yield Heading("Goodput", media=PAGE)
        yield lead(
            "The highest request rate that meets the SLO is between these two: of an open load, in which requests "
            "arrive at that rate, answered or not. The rate was doubled until the SLO was not met and then bisected; "
            "each end is confirmed by further probes with other prompts, unless stated."
        )
        yield table


def _guards(comparison: Comparison) -> Iterator[Block]:
    table, failed = guard_table(comparison), failed_guard_table(comparison)
    if table.rows:
        yield Heading("Guards of the benchmarks", media=PAGE)
        yield lead(f"{len(table.rows)} guards were checked during the benchmarks; {len(failed.rows) or 'none'} failed.")
        yield from [failed] if failed.rows else []
        yield Details("All guards", [table], media=PAGE)
