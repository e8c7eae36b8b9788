"""What devices allow at best, as text."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.compare.published.roofline_validation import RooflineCheck
from pipeline.compare.roofline.model import Roofline, RooflineRow
from pipeline.compare.statements import listing
from pipeline.results.base import Missing
from pipeline.stages.report.charts.roofline import METRICS
from pipeline.stages.report.number_format import ends, figure, number, signed
from pipeline.stages.report.tables.twins import Twin


def roofline_figures(roofline: Roofline) -> Twin:
    """Bytes, floors, what the load reaches at best, and how much of it was reached, for each variant.

    Why a figure is missing is said once, by `gaps`.
    """
    rows = tuple(_row(row, roofline.predicted) for row in roofline.rows)
    head = ("Variant", "Weights (GB)", "KV a token (kB)", "Tokens that fit", "Decode floor (ms)", "Prefill floor (ms)")
    best = ("Best throughput (tok/s)", "Gain over BF16")
    reached = () if roofline.predicted else ("Measured gain", "95 %", "Of the decode floor", "Of the best throughput")
    return Twin((*head, *best, *reached), rows)


def _row(row: RooflineRow, predicted: bool) -> tuple[str, ...]:
    footprint = row.footprint
    if isinstance(footprint, Missing):
        return (row.label, *["n/a"] * (7 if predicted else 11))
    moved = (number(footprint.weight_bytes / 1e9, 3), number(footprint.kv_bytes_per_token / 1e3, 1))
    best = row.best if isinstance(row.best, Missing) else row.best.throughput_tok_s
    floors = (_show(row.kv_tokens, lambda n: f"{n:,.0f}"), _show(row.decode_ms, figure), _show(row.prefill_ms, figure))
    shown = (row.label, *moved, *floors, _show(best, figure), _show(row.gain_percent, _percent))
    if predicted:
        return shown
    around = ends(row.measured_gain_interval, signed)
    gain = (_show(row.measured_gain, _percent), around if around == "n/a" else f"{around} %")
    return (*shown, *gain, _show(row.decode_share, _share), _show(row.throughput_share, _share))


def check_figures(check: RooflineCheck) -> Twin:
    """Each published figure beside the predicted one."""
    rows = tuple(
        (
            cell.label,
            cell.table,
            METRICS.get(cell.metric, cell.metric),
            figure(cell.published),
            _show(cell.predicted, figure),
            "baseline" if cell.published_gain is None else _percent(cell.published_gain),
            "baseline" if cell.predicted_gain is None else _percent(cell.predicted_gain),
            "yes" if cell.beyond_bound else "",
        )
        for cell in check.cells
    )
    head = ("Variant", "Table", "Metric", "Published", "Predicted", "Published gain", "Predicted gain")
    return Twin((*head, "Beyond what any schedule allows"), rows)


def error_figures(check: RooflineCheck) -> Twin:
    """How well the predicted gains tell the published ones."""
    rows = tuple(
        (
            METRICS.get(each.metric, each.metric),
            f"{each.cells}",
            "n/a" if each.rank_correlation is None else number(each.rank_correlation, 2),
            number(each.median_error, 1),
            number(each.largest_error, 1),
            each.largest,
        )
        for each in check.errors
    )
    head = ("Metric", "Cells", "Rank correlation", "Median error (points)", "Largest error (points)", "Where")
    return Twin(head, rows)


def gaps(roofline: Roofline) -> list[str]:
    """Why figures are missing, each reason with the variants that it holds for."""
    found: dict[str, list[str]] = {}
    for row in roofline.rows:
        figures = (row.footprint, row.kv_tokens, row.decode_ms, row.prefill_ms, row.best, row.gain_percent)
        reached = () if roofline.predicted else (row.measured_gain, row.decode_share, row.throughput_share)
        for reason in dict.fromkeys(each.reason for each in (*figures, *reached) if isinstance(each, Missing)):
            found.setdefault(reason, []).append(row.label)
    everyone = len(roofline.rows)
    return [
        f"n/a: {why.rstrip('.')}{'' if len(names) == everyone else f' ({listing(names)})'}."
        for why, names in found.items()
    ]


def _show(value: float | int | Missing, show: Callable[[float], str]) -> str:
    return "n/a" if isinstance(value, Missing) else show(value)


def _percent(value: float) -> str:
    return f"{signed(value)} %"


def _share(value: float) -> str:
    return f"{number(100 * value, 1)} %"
