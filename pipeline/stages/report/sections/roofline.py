"""The roofline: lower bounds of times, the share reached, and the throughput predicted for other GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.compare.published.roofline_validation import RooflineCheck
from pipeline.compare.roofline.model import Roofline, RooflineRow
from pipeline.compare.statements import listing, within_text
from pipeline.results import metrics
from pipeline.results.base import Missing
from pipeline.results.metrics import THROUGHPUT
from pipeline.results.text import by_reason, capitalized
from pipeline.stages.report.blocks import PAGE, Block, Heading, Legend, Picture, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import figure, format_interval, number, signed
from pipeline.stages.report.vega.panels import Strip, diamond, hover, interval, line_at, mark, strips
from pipeline.stages.report.vega.spec import INK, MUTED, Chart, Layout, Records, Spec, domain, heading, layer, quantity
from pipeline.stages.report.vega.styles import COLOURS

# Title and definition of each share of the roofline.
SHARES = {
    "decode_share": ("One request at a time", "lower bound of TPOT over measured TPOT"),
    "throughput_share": ("Under the load", "measured throughput over the simulated one"),
}


def section(report: Report) -> Section | None:
    """Return the measured machine, other GPUs, and the error of the prediction."""
    if not report.rooflines and report.roofline_check is None:
        return None
    check = report.roofline_check
    blocks = [*_measured(report.rooflines), *_predicted(report.rooflines, check), *_error(check)]
    return Section("roofline", "Hardware limits", "Roofline", blocks, is_expert=True)


def _measured(rooflines: Sequence[Roofline]) -> Iterator[Block]:
    chart = share_chart(rooflines)
    for each in rooflines:
        if each.predicted:
            continue
        device, bandwidth = each.device, each.device.bandwidth_gb_s
        speed = f" at {bandwidth:,.1f} GB/s ({device.source})" if bandwidth else ""
        yield lead(
            "A token takes at least the time to read its weights and its keys and values, and to compute its products. "
            "Throughput is simulated: continuous batching in which each step takes its lower bound. "
            f"For {device.name}{speed}, a context of {each.context:,} tokens, and a load of "
            f"{each.load.requests:,} requests ({each.load.source})."
        )
        table = roofline_table(each)
        yield Picture(chart, [table]) if chart else table


def _predicted(rooflines: Sequence[Roofline], check: RooflineCheck | None) -> Iterator[Block]:
    if (chart := what_if_chart(rooflines)) is None:
        return
    yield Heading("Predictions for other GPUs")
    yield lead(
        "Nothing was measured on these GPUs. The bars compare throughputs that are simulated with steps as short as "
        "memory and arithmetic allow. A ratio of two such throughputs is a ranking, not a bound: a format gains less "
        "where its kernels reach less of their bound than BF16's do. Kernels of weight-only formats unpack weights, "
        "which is not modelled: they gain at most this." + _usual_error(check),
        tag="predicted",
    )
    figures: list[Block] = []
    for each in rooflines:
        if each.predicted:
            figures += [Heading(f"{each.device.name}, predicted ({each.device.source})", 4), roofline_table(each)]
    yield Picture(chart, figures)


def _usual_error(check: RooflineCheck | None) -> str:
    """State the median error of a predicted gain in throughput over the study's tables; empty without a check."""
    errors = [each.median_error for each in check.errors if each.metric == THROUGHPUT.name] if check else []
    if not errors:
        return ""
    return f" Over the study's tables half of the predicted gains are off by {errors[0]:.0f} points or more."


def _error(check: RooflineCheck | None) -> Iterator[Block]:
    chart = check_chart(check)
    if check is None or chart is None:
        return
    yield Heading("Error of the prediction")
    yield lead(
        "The same prediction for every table of the study, compared with the study's measurements. On the dashed line "
        "the prediction is exact; below it the study gained less, e.g. because kernels unpack weights."
    )
    yield error_table(check)
    yield Picture(chart, [check_table(check)], media=PAGE)
    yield Legend(check.assumptions, media=PAGE)


def share_chart(found: Sequence[Roofline]) -> Chart | None:
    """Return the share of the bound that each variant reached on the measured machine."""
    here = next((roofline for roofline in found if not roofline.predicted), None)
    panels = {name: rows for name in SHARES if here is not None and (rows := _shares(here.rows, name))}
    if not panels:
        return None
    labels = list(dict.fromkeys(row["label"] for rows in panels.values() for row in rows))

    def spec(layout: Layout) -> Spec:
        drawn = []
        for name, rows in panels.items():
            top = max(100.0, *(row["value"] for row in rows))
            x = quantity("value", domain=[0, 1.18 * top], axis={"values": [0, 25, 50, 75, 100], "labelExpr": PERCENT})
            text = {"type": "text", "align": "left", "dx": 6, "color": INK, "fontSize": layout.font}
            bar = {"type": "bar", "height": 14, "cornerRadiusEnd": 3, "color": "var(--s-1)"}
            layers = [
                mark(bar, description=hover()),
                line_at(100, strokeDash=[4, 3]),
                mark(text, text={"field": "text", "type": "nominal"}),
            ]
            drawn.append(Strip(SHARES[name][0], rows, x, layers, SHARES[name][1]))
        return strips(drawn, labels, layout, most=2)

    key = "Percent of the speed at which every step takes as long as memory and arithmetic need at least."
    return Chart("roofline", "Share of the roofline reached", key, spec)


PERCENT = "format(datum.value, ',') + ' %'"


def _shares(rows: Sequence[RooflineRow], name: str) -> Records:
    found = []
    for row in rows:
        share = getattr(row, name)
        if isinstance(share, float):
            text = f"{number(100 * share, 0 if share >= 0.1 else 1)} %"
            found.append({"label": row.label, "value": 100 * share, "text": text, "hover": f"{row.label}: {text}"})
    return found


def what_if_chart(found: Sequence[Roofline]) -> Chart | None:
    """Return the predicted gain in throughput over BF16 on each device, and the measured one if there is any."""
    panels = [(roofline, rows) for roofline in found if (rows := _gains(roofline))]
    if not panels:
        return None
    drawn_labels = {row["label"] for _, rows in panels for row in rows}
    labels = [row.label for row in panels[0][0].rows if row.label in drawn_labels]
    values = [value for _, rows in panels for row in rows for value in (row["value"], row["low"], row["high"])]
    extent = domain([0.0, *values], 0.08)

    def spec(layout: Layout) -> Spec:
        x = quantity("value", domain=extent, axis={"tickCount": 4, "labelFlush": False, "labelExpr": PERCENT})
        bar = {"type": "bar", "height": 12, "color": "var(--s-1)", "opacity": 0.45}
        layers = [
            line_at(0),
            mark(bar, "datum.kind == 'predicted'", x2={"datum": 0}, description=hover()),
            interval("datum.kind == 'measured'"),
            diamond("datum.kind == 'measured'", size=80),
        ]
        drawn = [
            Strip(r.device.name, rows, x, layers, " and ".join(dict.fromkeys(str(row["kind"]) for row in rows)))
            for r, rows in panels
        ]
        return strips(drawn, labels, layout)

    key = (
        "Bars: predicted gain over BF16 in percent, nothing measured; of weight-only formats at most this. "
        "Diamonds: measured, with 95 % interval."
    )
    return Chart("what-if", "Predicted throughput gain over BF16", key, spec)


def _gains(roofline: Roofline) -> Records:
    rows = []
    for row in roofline.rows:
        shared = {"label": row.label, "color": INK}
        # BF16 has no gain over itself.
        if isinstance(gain := row.gain_percent, float) and gain:
            text = f"{row.label} on {roofline.device.name}: predicted {_gain(gain, row.is_weight_only)}"
            rows.append({**shared, "kind": "predicted", "value": gain, "low": gain, "high": gain, "hover": text})
        if isinstance(gain := row.measured_gain, float):
            around = row.measured_gain_interval
            low, high = (around.low, around.high) if around else (gain, gain)
            text = f"{row.label}: measured {signed(gain)} % ({signed(low)} to {signed(high)} %)"
            rows.append({**shared, "kind": "measured", "value": gain, "low": low, "high": high, "hover": text})
    # Omit a panel of zeros, as for the baseline alone.
    return rows if any(row["value"] for row in rows) else []


def check_chart(check: RooflineCheck | None) -> Chart | None:
    """Return published gains over BF16 against predicted ones, one panel per metric; on the diagonal they agree."""
    panels: dict[str, Records] = {}
    for cell in check.cells if check else ():
        if cell.predicted_gain is not None and cell.published_gain is not None:
            text = f"published {signed(cell.published_gain)} %, predicted {signed(cell.predicted_gain)} %"
            row = {"x": cell.predicted_gain, "y": cell.published_gain, "hover": f"{cell.label} ({cell.table}): {text}"}
            panels.setdefault(cell.metric, []).append(row)
    if not panels:
        return None

    def spec(layout: Layout) -> Spec:
        columns = 1 if layout.panels == 1 else len(panels)
        side = layout.width - 10 if columns == 1 else layout.width // columns - 78
        drawn = [_against(within_text(metrics.title(name)), rows, layout, side) for name, rows in panels.items()]
        return {"concat": drawn, "columns": columns, "spacing": {"row": 26, "column": 30}}

    key = (
        "Each mark is a published figure; on the dashed line the prediction is exact, below it the study reached less."
    )
    return Chart("roofline-check", "The roofline against the study", key, spec)


def _against(metric: str, rows: Records, layout: Layout, side: int) -> Spec:
    extent = domain([0.0, *(float(row[name]) for row in rows for name in ("x", "y"))], 0.06)
    axis = {"labelExpr": PERCENT}
    encoding = {
        "x": quantity("x", domain=extent, title="Predicted gain", axis={**axis, "tickCount": 3}),
        "y": quantity("y", domain=extent, title="Published gain", axis={**axis, "tickCount": 4}),
    }
    diagonal = {"values": [{"x": end, "y": end} for end in extent]}
    point = {"type": "point", "filled": True, "size": 60, "opacity": 0.8, "color": COLOURS[0]}
    layers = [
        {"data": diagonal, **layer({"type": "line", "color": MUTED, "strokeDash": [4, 4]}, encoding, {})},
        layer(point, encoding, {"description": hover()}),
    ]
    title = heading(capitalized(metric), "", layout, side)
    return {"width": side, "height": side, "title": title, "data": {"values": rows}, "layer": layers}


def roofline_table(roofline: Roofline) -> Table:
    """Return bytes, lower bounds, the simulated throughput under the load, and the share reached, for each variant.

    The legend defines the columns, and has the reasons of missing figures.
    """
    rows = [_row(row, roofline.predicted) for row in roofline.rows]
    head = ("Variant", "Weights (GB)", "KV per token (kB)", "Tokens that fit")
    printed = () if roofline.predicted else ("Tokens printed by vLLM",)
    bounds = ("Decode bound (ms)", "Prefill bound (ms)", "Simulated throughput (tok/s)", "Predicted gain over BF16")
    reached = (
        ()
        if roofline.predicted
        else ("Measured gain", "95 %", "Decode bound / measured TPOT", "Measured / simulated throughput")
    )
    caption = f"{'Predicted for' if roofline.predicted else 'The roofline of'} {roofline.device.name}"
    legend = [*_columns(roofline), *roofline.notes, *gaps(roofline)]
    return Table((*head, *printed, *bounds, *reached), rows, caption, legend=legend)


def _columns(roofline: Roofline) -> Iterator[str]:
    """Yield the definitions of the columns."""
    memory = roofline.device.memory_mib
    within = f"the {memory:,.0f} MiB that the driver reports" if memory else "the GPU's memory"
    yield (
        f"GB, kB: powers of ten. Tokens that fit: predicted from {within}, weights and activations of a step; "
        "CUDA graphs and memory that the driver reserves are not counted."
    )
    yield (
        f"Decode bound: least time per token of one request after {roofline.context:,} tokens of context. "
        f"Prefill bound: least time of a prompt of {roofline.context:,} tokens. Simulated throughput: of the load, "
        "each step at its bound."
    )
    if any(row.is_weight_only for row in roofline.rows):
        yield "≤: weight-only format; its kernels unpack weights, which is not modelled, so it gains at most this."
    if not roofline.predicted:
        yield (
            "Measured gain: throughput against BF16's in the benchmark, with its 95 % interval over repeats. "
            "Decode bound / measured TPOT: at concurrency 1."
        )


def _row(row: RooflineRow, predicted: bool) -> tuple[str, ...]:
    footprint = row.footprint
    if isinstance(footprint, Missing):
        return (row.label, *["n/a"] * (7 if predicted else 12))
    moved = (number(footprint.weight_bytes / 1e9, 3), number(footprint.kv_bytes_per_token / 1e3, 1))
    best = row.best if isinstance(row.best, Missing) else row.best.throughput_tok_s
    kv = [_or_na(row.kv_tokens, lambda n: f"{n:,.0f}")]
    if not predicted:
        kv.append(_or_na(row.printed_kv_tokens, lambda n: f"{n:,.0f}"))
    floors = (_or_na(row.decode_ms, figure), _or_na(row.prefill_ms, figure))
    gained = _or_na(row.gain_percent, lambda gain: _gain(gain, row.is_weight_only))
    shown = (row.label, *moved, *kv, *floors, _or_na(best, figure), gained)
    if predicted:
        return shown
    around = format_interval(row.measured_gain_interval, signed)
    gain = (_or_na(row.measured_gain, _percent), around if around == "n/a" else f"{around} %")
    return (*shown, *gain, _or_na(row.decode_share, _share), _or_na(row.throughput_share, _share))


def _gain(gain: float, is_weight_only: bool) -> str:
    """Format a predicted gain; that of a weight-only format is a limit."""
    # The error of the prediction is tens of points: decimals would promise too much.
    return f"{'≤ ' if is_weight_only else ''}{signed(gain, 0)} %"


def check_table(check: RooflineCheck) -> Table:
    """Return each published figure with the predicted one."""
    rows = tuple(
        (
            cell.label,
            cell.table,
            within_text(metrics.title(cell.metric)),
            figure(cell.published),
            _or_na(cell.predicted, figure),
            "baseline" if cell.published_gain is None else _percent(cell.published_gain),
            "baseline" if cell.predicted_gain is None else _percent(cell.predicted_gain),
            "yes" if cell.beyond_bound else "",
        )
        for cell in check.cells
    )
    head = ("Variant", "Table", "Metric", "Published", "Predicted", "Published gain", "Predicted gain")
    legend = [
        "Gain: over BF16 of the same table, positive is better for every metric. Predicted: simulated, each step at "
        "its lower bound. Better than any schedule: the published figure beats what any order of the assumed load's "
        "requests could reach, so the actual load was another one."
    ]
    return Table((*head, "Better than any schedule"), rows, "Published and predicted", legend=legend)


def error_table(check: RooflineCheck) -> Table:
    """Return the errors of the predicted gains against the published ones, beside those of predicting no gain."""
    rows = tuple(
        (
            within_text(metrics.title(each.metric)),
            f"{each.cells}",
            f"{each.same_sign} of {each.cells}",
            f"{each.too_high} of {each.cells}",
            signed(each.bias),
            number(each.median_error, 1),
            number(each.no_gain_error, 1),
            _correlation(each.rank_correlation),
            _correlation(each.rank_within),
            number(each.largest_error, 1),
            each.largest,
        )
        for each in check.errors
    )
    head = (
        "Metric",
        "Gains",
        "Right sign",
        "Too high",
        "Bias (points)",
        "Median error (points)",
        "Median error of no gain (points)",
        "Rank correlation",
        "Within a table",
        "Largest error (points)",
        "Where",
    )
    return Table(head, rows, "Error of the roofline", legend=_of_errors(check))


def _of_errors(check: RooflineCheck) -> list[str]:
    """Return the definitions of the columns, and the published figures that contradict the assumed load."""
    beyond = sum(cell.beyond_bound for cell in check.cells)
    lines = [
        "Gains over BF16 in percent, positive is better for every metric; bias: mean of predicted minus published, in "
        "points. Median error of no gain: that of predicting 0 % for every format. Rank correlation: over all tables, "
        "which also differ in GPU; within a table: the mean of those of three or more gains, weighted by their number."
    ]
    if beyond:
        lines.append(
            f"{beyond} of {len(check.cells)} published figures are better than any schedule of the assumed load could "
            "reach: the study's load or its server's settings were not the assumed ones."
        )
    return lines


def _correlation(value: float | None) -> str:
    return "n/a" if value is None else number(value, 2)


def gaps(roofline: Roofline) -> list[str]:
    """Return the reasons of missing figures, each with its variants."""
    missing = []
    for row in roofline.rows:
        figures = (row.footprint, row.kv_tokens, row.decode_ms, row.prefill_ms, row.best, row.gain_percent)
        reached = () if roofline.predicted else (row.measured_gain, row.decode_share, row.throughput_share)
        reasons = dict.fromkeys(each.reason for each in (*figures, *reached) if isinstance(each, Missing))
        missing += [(row.label, reason) for reason in reasons]
    everyone = len(roofline.rows)
    return [
        f"n/a: {why.rstrip('.')}{'' if len(names) == everyone else f' ({listing(names)})'}."
        for why, names in by_reason(missing).items()
    ]


def _or_na(value: float | int | Missing, show: Callable[[float], str]) -> str:
    return "n/a" if isinstance(value, Missing) else show(value)


def _percent(value: float) -> str:
    return f"{signed(value)} %"


def _share(value: float) -> str:
    return f"{number(100 * value, 1)} %"
