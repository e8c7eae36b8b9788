"""Published tables compared with these results: changes against BF16, and the noise of the differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.compare.published.reproduction import ReproducedCell, Reproduction
from pipeline.results import metrics
from pipeline.results.base import Missing
from pipeline.stages.report.blocks import PAGE, Block, Details, Heading, Key, Mark, Picture, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import figure, format_interval, number, signed
from pipeline.stages.report.vega.panels import Strip, diamond, interval, line_at, ring, strips
from pipeline.stages.report.vega.spec import INK, MUTED, Chart, Layout, Records, Spec, domain, quantity
from pipeline.stages.report.vega.styles import COLOURS

PUBLISHED, MEASURED = COLOURS[1], COLOURS[0]


def section(report: Report) -> Section | None:
    """Return each published table with variants of this report."""
    if not report.reproductions:
        return None
    blocks: list[Block] = [
        lead(
            "Published tables of a model of this shape, on GPUs of this class: by figures on the same GPU, else by "
            "changes against BF16. A published speed comes from a single run: it agrees if it lies in the 95 % "
            "prediction interval of one more run measured here. A published accuracy has the noise of its items: it "
            "agrees if the two differences from BF16 agree within the noise of both. An interval wider than the "
            "published effect is too wide to tell."
        )
    ]
    for each in report.reproductions:
        blocks += _blocks(each)
    return Section("study", "Comparison with the published study", "Study", blocks, is_expert=True)


def _blocks(reproduction: Reproduction) -> Iterator[Block]:
    source = reproduction.source
    software = f"; {source.software}" if source.software else ""
    basis = "Figures" if reproduction.basis == "figures" else "Changes against BF16"
    yield Heading(reproduction.title)
    yield Prose(
        f"{source.document}, {source.section} ({source.publisher}{software}). {basis}: {reproduction.why}.", "source"
    )
    yield from (Prose(sentence.text) for sentence in reproduction.statements)
    table = reproduction_table(reproduction)
    if chart := reproduction_chart(reproduction):
        marks = [Mark("published", PUBLISHED, "diamond")]
        marks.append(Mark("measured here, with its 95 % interval", MEASURED, "circle", is_hollow=True))
        yield Key(marks, media=PAGE)
        yield Picture(chart, [table])
    else:
        yield Details("Cell by cell", [table])
    if chart := published_chart(reproduction):
        yield Heading("Published differences and their noise", 4, media=PAGE)
        yield Picture(chart, [published_table(reproduction)], media=PAGE)
    if reproduction.printed:
        yield Details("The printed percentages, recomputed", [printed_table(reproduction)], media=PAGE)


def reproduction_chart(reproduction: Reproduction) -> Chart | None:
    """Return the published and the measured change against BF16 for each metric; None if none was measured."""
    panels = {}
    for metric in dict.fromkeys(cell.metric for cell in reproduction.cells):
        rows = _rows([cell for cell in reproduction.cells if cell.metric == metric], reproduction.kind)
        if any(row["kind"] == "measured" for row in rows):
            panels[metric] = rows
    if not panels:
        return None
    labels = list(dict.fromkeys(row["label"] for rows in panels.values() for row in rows))
    unit = "points" if reproduction.kind == "accuracy" else "%"

    def spec(layout: Layout) -> Spec:
        # Published: filled diamond; measured: ring. The two differ in shape, not only in colour.
        layers = [
            line_at(0),
            interval("datum.kind == 'measured'"),
            diamond("datum.kind == 'published'", size=84),
            ring("datum.kind == 'measured'"),
        ]
        drawn = []
        for metric, rows in panels.items():
            ends = domain([0.0, *(row[name] for row in rows for name in ("value", "low", "high"))], 0.07)
            x = quantity("value", domain=ends, axis={"tickCount": 4, "labelFlush": False})
            drawn.append(Strip(metrics.title(metric), rows, x, layers, f"against BF16, {unit}"))
        return strips(drawn, labels, layout)

    title = f"{reproduction.title}: published and measured"
    key = "Diamond: published, a single run without an interval. Ring: measured here, with its 95 % interval."
    return Chart(f"reproduction-{reproduction.table}", title, key, spec)


def _rows(cells: Sequence[ReproducedCell], kind: str) -> Records:
    unit, rows = "points" if kind == "accuracy" else "%", []
    for cell in cells:
        if (change := cell.published_change) is not None:
            text = f"{cell.label}: published {signed(change)} {unit}"
            bounds = {"low": change, "high": change}
            rows.append(
                {"label": cell.label, "kind": "published", "value": change, **bounds, "color": PUBLISHED, "hover": text}
            )
        if (change := cell.measured_change) is not None and not isinstance(cell.published, Missing):
            around = cell.measured_change_interval
            low, high = (around.low, around.high) if around else (change, change)
            text = f"{cell.label}: measured {signed(change)} {unit} ({signed(low)} to {signed(high)})"
            bounds = {"low": low, "high": high}
            rows.append(
                {"label": cell.label, "kind": "measured", "value": change, **bounds, "color": MEASURED, "hover": text}
            )
    return rows


def published_chart(reproduction: Reproduction) -> Chart | None:
    """Return the differences of a published accuracy table from BF16, with intervals from the numbers of items."""
    found = reproduction.differences
    if not found:
        return None
    rows = [
        {
            "label": each.label,
            "task": each.task,
            "value": each.points,
            "low": each.interval.low,
            "high": each.interval.high,
            "kind": "noise" if each.within_noise else "clear",
            "color": MUTED if each.within_noise else INK,
            "hover": f"{each.label}, {each.task}: {signed(each.points, 2)} points "
            f"({signed(each.interval.low)} to {signed(each.interval.high)}), {each.n:,} items",
        }
        for each in found
    ]
    extent = domain([0.0, *(end for each in found for end in (each.interval.low, each.interval.high))], 0.05)

    def spec(layout: Layout) -> Spec:
        x = quantity("value", domain=extent, axis={"tickCount": 5, "labelFlush": False})
        layers = [line_at(0), interval(), ring("datum.kind == 'noise'"), diamond("datum.kind == 'clear'")]
        tasks = dict.fromkeys(row["task"] for row in rows)
        drawn = [Strip(str(task), [row for row in rows if row["task"] == task], x, layers) for task in tasks]
        return strips(drawn, list(dict.fromkeys(str(row["label"]) for row in rows)), layout)

    key = (
        "Points against BF16 with the 95 % interval from the number of items. "
        "Ring: the interval holds zero; diamond: it does not."
    )
    return Chart(f"published-{reproduction.table}", f"{reproduction.title}: differences and their noise", key, spec)


def reproduction_table(reproduction: Reproduction) -> Table:
    """Return published and measured figures and changes, with their agreement if there is an interval."""
    unit = "points" if reproduction.kind == "accuracy" else "%"
    rows = tuple(_reproduced(cell, reproduction.kind) for cell in reproduction.cells)
    change = f"change ({unit})"
    head = ("Published as", "Variant here", "Metric", "Published", f"Published {change}", "Measured", "95 %")
    against = (f"Measured {change}", "95 %", "One more run, 95 %", "Measured over published", "Agrees")
    compared = "figure" if reproduction.basis == "figures" else "change"
    legend = (
        ["95 %: interval of the accuracy, and of the paired difference. Agrees: within the noise of both."]
        if reproduction.kind == "accuracy"
        else [
            "95 %: interval of the mean over repeats, and of its change. One more run: prediction interval of a single "
            f"run's {compared}, assuming that it varies as these repeats do; they share one start of a server, so the "
            "interval is too narrow by the variation between starts. Agrees: the published "
            f"{compared} lies in it."
        ]
    )
    if any(cell.is_unreliable for cell in reproduction.cells):
        legend.append("Unreliable: a guard failed while it was measured; the notes below the results name it.")
    return Table((*head, *against), rows, f"{reproduction.title}, published and measured", legend=legend)


def _reproduced(cell: ReproducedCell, kind: str) -> tuple[str, ...]:
    def show(value: float) -> str:
        return number(value, 2) if kind == "accuracy" else figure(value)

    def change(value: float | None) -> str:
        return "" if value is None else signed(value)

    mark = " (unreliable)" if cell.is_unreliable else ""
    measured = f"n/a: {cell.measured.reason}" if isinstance(cell.measured, Missing) else show(cell.measured) + mark
    published = f"n/a: {cell.published.reason}" if isinstance(cell.published, Missing) else show(cell.published)
    around = format_interval(cell.measured_interval, show) if cell.measured_interval else ""
    shown = show if cell.ratio is not None else signed
    predicted = format_interval(cell.prediction, shown) if cell.prediction else ""
    moved = format_interval(cell.measured_change_interval, signed) if cell.measured_change_interval else ""
    return (
        cell.label,
        cell.variant or "",
        metrics.title(cell.metric),
        published,
        change(cell.published_change),
        measured,
        around,
        change(cell.measured_change),
        moved,
        predicted,
        "" if cell.ratio is None else f"{number(cell.ratio, 3)}×",
        cell.agrees or ("not measured" if cell.published_change is not None or cell.ratio is not None else ""),
    )


def published_table(reproduction: Reproduction) -> Table:
    """Return the published differences from BF16, with intervals from the numbers of items."""
    rows = tuple(
        (
            each.label,
            each.task,
            f"{each.n:,}",
            signed(each.points, 2),
            f"{each.items:+,}".replace("-", "−"),
            format_interval(each.interval, signed),
            number(each.z, 2),
            "yes" if each.within_noise else "no",
        )
        for each in reproduction.differences
    )
    head = ("Published as", "Task", "Items", "Difference (points)", "In items", "95 %", "z", "Within noise")
    legend = [
        "Difference: published accuracy minus BF16's, as of two independent samples of that many items; 95 %: its "
        "interval; z: difference over standard error. Within noise: the interval holds zero."
    ]
    return Table(head, rows, f"{reproduction.title}, published differences", legend=legend)


def printed_table(reproduction: Reproduction) -> Table:
    """Return the printed percentages of the study, and those recomputed from its printed figures."""
    rows = tuple(
        (
            each.label,
            metrics.title(each.metric),
            f"{signed(each.printed)} %",
            f"{signed(each.recomputed)} %",
            "differs" if each.is_slip else "correct",
        )
        for each in reproduction.printed
    )
    head = ("Published as", "Metric", "Printed", "From the printed figures", "Result")
    legend = ["Differs: rounding of the printed figures cannot explain the printed percentage."]
    return Table(head, rows, f"{reproduction.title}, printed percentages", legend=legend)
