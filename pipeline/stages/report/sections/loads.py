"""The benchmark load by load: percentiles against BF16's, goodput, and failed guards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline.compare.benchmarks import Benchmark, LoadRow, SpeedCell
from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.compare.words import speed_word
from pipeline.results import metrics
from pipeline.results.bench import Goodput, Guard
from pipeline.results.metrics import GOODPUT, THROUGHPUT
from pipeline.results.text import clean
from pipeline.stages.report.blocks import Block, Legend, Table
from pipeline.stages.report.number_format import decimals, number, signed

CAPTION = "Loads of "
OUTCOMES = {True: "passed", False: "failed", None: "reported, not judged"}
COLUMNS = {
    metrics.latency(statistic, latency).name: f"P{percent} {latency.upper()} (ms)"
    for latency in metrics.LATENCIES
    for percent, statistic in metrics.PERCENTILES.items()
} | {GOODPUT.name: f"{GOODPUT.title} at this load ({GOODPUT.unit})"}


def load_tables(comparison: Comparison) -> list[Table]:
    """Return a table for each protocol."""
    found = []
    for protocol in dict.fromkeys(name for row in comparison.rows for name in row.benchmarks):
        measured = [
            (row, row.benchmarks[protocol], load)
            for row in comparison.rows
            if protocol in row.benchmarks
            for load in row.benchmarks[protocol].loads
        ]
        if measured:
            found.append(_loads(f"{CAPTION}{protocol}", measured))
    return found


def smallest_gains(comparison: Comparison, table: Table) -> list[Block]:
    """Return the legend of a table of loads: the gain in throughput that could have been shown under each."""
    protocol = table.caption.removeprefix(CAPTION)
    gains = comparison.smallest_gains_by_load.get(protocol, {})
    if not gains:
        return []
    listed = ", ".join(f"{load} {gain:.1f} %" for load, gain in gains.items())
    return [
        Legend(
            [
                "In brackets: 95 % intervals; those of differences from BF16 hold for all variants together (Dunnett).",
                f"This run could have shown a gain in throughput of this size or more with 80 % power: {listed}.",
            ]
        )
    ]


def _loads(caption: str, measured: list[tuple[Row, Benchmark, LoadRow]]) -> Table:
    """Return a row for each variant under each load, grouped by load."""
    shown = [name for name in COLUMNS if any(isinstance(load.cells.get(name), SpeedCell) for _, _, load in measured)]
    digits = {
        name: decimals(c.measured.mean for _, _, load in measured if isinstance(c := load.cells.get(name), SpeedCell))
        for name in (THROUGHPUT.name, *shown)
    }
    order = list(dict.fromkeys(load.name for _, _, load in measured))
    # Loads under which a guard failed for BF16.
    unreliable = {load.name for row, each, load in measured if row.is_baseline and any(_marks(each, load.name))}
    rows = []
    for row, benchmark, load in sorted(measured, key=lambda each: order.index(each[2].name)):
        throughput, *cells = (_cell(load, name, digits[name]) for name in (THROUGHPUT.name, *shown))
        marks = ", ".join(_marks(benchmark, load.name))
        flight = "n/a" if load.in_flight is None else number(load.in_flight, digits=1)
        reliable = load.name not in unreliable and not marks
        change = _change(row, load, is_reliable=reliable)
        rows.append((load.name, row.label, throughput, change, *cells, load.kind, flight, marks))
    titles = (*(COLUMNS[name] for name in shown), "Kind of load", "In flight", "Unreliable")
    return Table(("Load", "Variant", "Throughput (tok/s)", "Against BF16", *titles), rows, caption)


def _cell(load: LoadRow, name: str, digits: int) -> str:
    """Return a mean over repeats with its interval."""
    cell = load.cells.get(name)
    if not isinstance(cell, SpeedCell):
        return "n/a"
    show = partial(number, digits=digits)
    mean, interval = show(cell.measured.mean), cell.measured.interval
    return mean if interval is None else f"{mean} ({show(interval.low)} to {show(interval.high)})"


def _change(row: Row, load: LoadRow, *, is_reliable: bool) -> str:
    if row.is_baseline:
        return "baseline"
    cell = load.cells.get(THROUGHPUT.name)
    if not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return "n/a"
    interval: Interval | None = cell.change.interval
    if interval is None:
        return f"{signed(cell.change.percent)} % (no interval)"
    word = speed_word(cell, THROUGHPUT.better, is_reliable=is_reliable)
    return f"{signed(cell.change.percent)} % ({signed(interval.low)} to {signed(interval.high)}; {word})"


def _marks(benchmark: Benchmark, load: str) -> Iterator[str]:
    yield from dict.fromkeys(guard.name for guard in benchmark.guards if _speaks_against(guard, load))


def _speaks_against(guard: Guard, load: str) -> bool:
    return guard.passed is False and guard.load in (None, load)


def goodput_table(comparison: Comparison) -> Table:
    """Return the lower and upper bound of the highest rate that meets the SLO."""
    rows = [
        (row.label, name, _slo(found), *_bracket(found), str(len(found.probes)), ", ".join(_doubts(benchmark, found)))
        for row in comparison.rows
        for name, benchmark in row.benchmarks.items()
        if (found := benchmark.goodput) is not None
    ]
    head = ("Variant", "Protocol", "SLO", "Met at (req/s)", "Not met at (req/s)", "Probes", "Doubts")
    return Table(head, rows, "Goodput", "left")


def _bracket(goodput: Goodput) -> tuple[str, str]:
    met = "no rate met it" if goodput.met is None else f"{goodput.met:g}"
    return met, "no upper end found" if goodput.unmet is None else f"{goodput.unmet:g}"


def _doubts(benchmark: Benchmark, goodput: Goodput) -> Iterator[str]:
    for name in dict.fromkeys(name for probe in goodput.probes for name in _marks(benchmark, probe.load)):
        number = sum(name in _marks(benchmark, probe.load) for probe in goodput.probes)
        yield f"{name} in {number} of {len(goodput.probes)} probes"
    if goodput.monotone is None:
        yield "short probes, ends not repeated (earlier version)"
        return
    for end, name, confirmed in (
        (goodput.met, "lower", goodput.met_confirmed),
        (goodput.unmet, "upper", goodput.unmet_confirmed),
    ):
        if end is not None and not confirmed:
            yield f"{name} end not confirmed"
    if not goodput.monotone:
        yield "a rate met the SLO above one that did not"


def _slo(goodput: Goodput) -> str:
    limits = (f"{name.removesuffix('_ms').upper()} {limit:g} ms" for name, limit in goodput.slo.items())
    return ", ".join(clean(limit, 40) for limit in limits)


def failed_guard_table(comparison: Comparison) -> Table:
    """Return the failed guards, each with its observation."""
    rows = [(*where, guard.name, guard.text) for where, guard in _guards(comparison) if guard.passed is False]
    return Table(("Variant", "Protocol", "Load", "Guard", "Observed"), rows, "Guards that failed", "left")


def guard_table(comparison: Comparison) -> Table:
    """Return every guard of the benchmarks."""
    rows = [(*where, guard.name, OUTCOMES[guard.passed], guard.text) for where, guard in _guards(comparison)]
    return Table(("Variant", "Protocol", "Load", "Guard", "Outcome", "Observed"), rows, "Guards", "left")


def _guards(comparison: Comparison) -> Iterator[tuple[tuple[str, str, str], Guard]]:
    for row in comparison.rows:
        for name, benchmark in row.benchmarks.items():
            for guard in benchmark.guards:
                yield (row.label, name, guard.load or "all"), guard
    for guard in comparison.guards:
        yield ("all", "all", guard.load or "all"), guard
