"""What serving took under the load of the results, as text: latency percentiles and memory."""

from __future__ import annotations

from functools import partial

from pipeline.compare.benchmarks import SpeedCell
from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.memory_fit import Fit
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.bench import Memory
from pipeline.stages.report.charts.latency import LATENCIES, PERCENTILES, percentile
from pipeline.stages.report.charts.memory import memory_of
from pipeline.stages.report.number_format import decimals, ends, number, signed, size_unit
from pipeline.stages.report.tables.study import EMULATED_BASELINE, NO_SPEED_CLAIM
from pipeline.stages.report.tables.twins import Twin


def latency_figures(comparison: Comparison) -> Twin:
    """Every percentile that is drawn, with its interval and its change against BF16."""
    rows = []
    for row in comparison.rows:
        for latency in LATENCIES:
            for which, name in PERCENTILES.items():
                if (cell := percentile(row, which, latency)) is not None:
                    rows.append((_label(row), latency.upper(), name, *_cell(cell)))
    return Twin(("Variant", "Latency", "Percentile", "ms", "95 %", "Against BF16", "95 %"), tuple(rows))


def memory_figures(comparison: Comparison) -> Twin:
    """Bytes of each part, how many tokens fit, and whether it would fit into a GPU of 24 GB."""
    held = [(row, memory_of(row)) for row in comparison.rows]
    found = [(row, *both) for row, both in held if both is not None]
    sizes = [size for _, m, _ in found for size in (m.weights_bytes, m.kv_cache_bytes, m.peak_bytes) if size]
    unit, scale = size_unit(sizes)
    digits = min(2, decimals(size / scale for size in sizes))

    def show(size: int | None) -> str:
        return "n/a" if size is None else number(size / scale, digits)

    def line(row: Row, m: Memory, fit: Fit | Missing) -> tuple[str, ...]:
        tokens = "n/a" if m.kv_cache_tokens is None else f"{m.kv_cache_tokens:,}"
        each = "n/a" if m.kv_bytes_per_token is None else f"{m.kv_bytes_per_token:,}"
        held = (show(m.weights_bytes), show(m.kv_cache_bytes), tokens, each, show(m.peak_bytes), m.peak_of)
        return (row.label, *held, _fits(fit))

    head = ("Variant", f"Weights ({unit})", f"KV cache ({unit})", "Tokens that fit", "Bytes a token", f"Peak ({unit})")
    return Twin((*head, "Peak of", "In 24 GB"), tuple(line(*each) for each in found))


def _fits(fit: Fit | Missing) -> str:
    if isinstance(fit, Missing):
        return f"n/a ({fit.reason})"
    beside = "" if fit.overhead_bytes is not None else ", activations not counted"
    return f"yes, with {fit.kv_tokens:,} tokens of KV cache{beside}" if fit.fits else "no"


def _label(row: Row) -> str:
    claim = "" if row.claims_speed else f" ({NO_SPEED_CLAIM if row.emulated else EMULATED_BASELINE})"
    return f"{row.label}{claim}"


def _cell(cell: SpeedCell) -> tuple[str, str, str, str]:
    measured, change = cell.measured, cell.change
    digits = min(2, decimals([measured.mean]))
    shown = (number(measured.mean, digits), ends(measured.interval, partial(number, digits=digits)))
    if not isinstance(change, Change):
        return (*shown, "", "")
    return (*shown, f"{signed(change.percent)} %", f"{ends(change.interval, signed)} %" if change.interval else "n/a")
