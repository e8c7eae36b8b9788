"""Mixes of formats: the choice by layer, bits against divergence, and what the prediction was worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.compare.mixes import ENOUGH, Mixes
from pipeline.compare.stats.intervals import Interval
from pipeline.models.mix import UNROUNDED
from pipeline.results.mix import GroupChoice, Mix
from pipeline.stages.report.blocks import PAGE, Block, Heading, Key, Mark, Picture, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import number
from pipeline.stages.report.vega.spec import (
    INK,
    SURFACE,
    WIDE,
    Chart,
    Layout,
    Records,
    Spec,
    domain,
    from_row,
    layer,
    logarithmic,
    quantity,
)
from pipeline.stages.report.vega.styles import Style, assign_styles, described

OF_MIX, OF_ONE = "a mix", "one format for all"
STYLES = assign_styles([OF_MIX, OF_ONE])


def section(report: Report) -> Section | None:
    """Return the mixes of a report; None if it has none."""
    mixes = report.mixes
    if mixes is None:
        return None
    blocks: list[Block] = [
        lead(
            "A mix has one format for each group of Linears that vLLM loads as one. Each group was rounded alone, and "
            "the divergence of the model's predictions from BF16's is its sensitivity; of all choices within the "
            "budget, the one with the least sum was taken."
        ),
        mix_table(mixes),
        *_frontier(mixes),
        Prose(_prediction(mixes)),
    ]
    if mixes.differences:
        blocks += [Heading("Mixes against formats that are not larger", media=PAGE), difference_table(mixes)]
    styles = format_styles(mixes)
    for index, (name, mix) in enumerate(mixes.choices.items()):
        title = f"Formats by layer: {mixes.labels.get(name, name)}"
        marks = [Mark(each, style.colour, style.shape) for each, style in styles.items()]
        blocks += [
            Heading(title, media=PAGE),
            Key(marks, media=PAGE),
            Picture(_choice_chart(f"mix-{index}", title, mix, styles), [group_table(mix)], media=PAGE),
        ]
    return Section("mixes", "Mixed precision", "Mixes", blocks, is_expert=True)


def mix_table(mixes: Mixes) -> Table:
    """Return each mix with its budget, and its divergence as predicted and measured."""
    measured = {each.name: each.kl for each in mixes.placed}
    rows = []
    for name, mix in mixes.choices.items():
        kl = measured.get(name)
        shown = ("not measured", "") if kl is None else (number(kl.value, 4), _ends(kl.interval))
        rows.append((mixes.labels.get(name, name), mix.budget, number(mix.bits, 2), number(mix.kl, 4), *shown))
    head = ("Mix", "Budget", "Bits of a weight", "KL, predicted (nats/token)", "KL, measured (nats/token)", "95 %")
    return Table(head, rows, "Mixes of formats")


def _ends(interval: Interval | None) -> str:
    return "n/a" if interval is None else f"{number(interval.low, 4)} to {number(interval.high, 4)}"


def difference_table(mixes: Mixes) -> Table:
    """Return the divergence of each mix less that of each single format that is not larger."""
    labels = {each.name: each.label for each in mixes.placed}
    rows = []
    for each in mixes.differences:
        rows.append((labels[each.mix], labels[each.other], number(each.value, 4), _ends(each.interval), each.word))
    head = ("Mix", "Against", "KL, difference (nats/token)", "95 %", "Divergence")
    return Table(head, rows, "Mixes against formats that are not larger")


def group_table(mix: Mix) -> Table:
    """Return each group of a mix with its format and its sensitivities."""
    schemes = list(dict.fromkeys(scheme for group in mix.groups for scheme in group.sensitivities))
    rows = [
        (
            group.name,
            str(group.layer),
            group.format,
            number(8 * group.bytes / group.weights, 2),
            *(number(group.sensitivities[scheme], 5) if scheme in group.sensitivities else "" for scheme in schemes),
        )
        for group in mix.groups
    ]
    head = ("Group", "Layer", "Format", "Bits", *(f"KL with {scheme}" for scheme in schemes))
    return Table(head, rows, "Formats by group, and the sensitivity to each (nats/token)")


def _prediction(mixes: Mixes) -> str:
    """Return what the rank correlation says, and which mixes are off the frontier."""
    measured = sum(each.predicted is not None for each in mixes.placed)
    said = f"Over {measured} mixes, the rank correlation of predicted and measured divergence is "
    if mixes.correlation is None:
        said = f"Predicted and measured divergence can be correlated from {ENOUGH} mixes on; measured here: {measured}."
    else:
        said += f"{number(mixes.correlation, 2)}."
    off = [mixes.labels.get(name, name) for name in mixes.off]
    if off:
        return f"{said} Off the frontier, as a format that is not larger diverges less: {', '.join(off)}."
    return f"{said} No mix is shown to be off the frontier of bits and divergence." if measured else said


def _frontier(mixes: Mixes) -> Iterator[Block]:
    """Yield the chart of bits against divergence, if there is a choice to see."""
    # A logarithmic axis cannot show zero.
    if sum(each.kl.value > 0 for each in mixes.placed) < 2:
        return
    rows = [(each.label, number(each.bits, 2), number(each.kl.value, 5)) for each in mixes.placed]
    table = Table(("Variant", "Bits of a weight", "KL from BF16 (nats/token)"), rows, "Bits against divergence")
    yield Heading("Bits against divergence", media=PAGE)
    yield lead("Left is smaller, down is closer to BF16. Bits are those of the decoder's weights, scales included.")
    yield Key([Mark(name, style.colour, style.shape) for name, style in STYLES.items()], media=PAGE)
    chart = Chart(
        "bits-divergence",
        "Bits of a weight against divergence from BF16",
        described({name: style.shape for name, style in STYLES.items()}),
        lambda layout: _bits_and_divergence(mixes, layout),
    )
    yield Picture(chart, [table], media=PAGE)


def _bits_and_divergence(mixes: Mixes, layout: Layout) -> Spec:
    rows: Records = []
    for each in mixes.placed:
        if each.kl.value <= 0:
            continue
        style, ends = STYLES[OF_ONE if each.predicted is None else OF_MIX], each.kl.interval
        rows.append(
            {
                "bits": each.bits,
                "kl": each.kl.value,
                # An interval of so small a figure may begin below zero.
                "low": max(ends.low, each.kl.value / 10) if ends else each.kl.value,
                "high": ends.high if ends else each.kl.value,
                "label": each.label if each.predicted is None else "",
                "color": style.colour,
                "shape": style.shape,
                "hover": f"{each.label}: {number(each.bits, 2)} bits, {number(each.kl.value, 5)} nats per token",
            }
        )
    values = [value for row in rows for value in (row["low"], row["high"])]
    encoding = {
        "x": quantity("bits", domain=domain([row["bits"] for row in rows], 0.08), title="Bits of a weight"),
        "y": logarithmic("kl", values, title="KL from BF16 (nats per token)"),
    }
    bar = {"y": {"field": "low"}, "y2": {"field": "high"}, "color": from_row("color")}
    hover = {"field": "hover", "type": "nominal"}
    mark = {"color": from_row("color"), "shape": from_row("shape"), "description": hover}
    name = {"text": {"field": "label", "type": "nominal"}}
    text = {"type": "text", "fontSize": layout.font, "align": "left", "dx": 9, "color": INK}
    layers = [
        layer({"type": "rule", "strokeWidth": 1.6, "opacity": 0.75}, encoding, bar),
        layer({"type": "point", "filled": True, "size": 80, "opacity": 1}, encoding, mark),
        layer(text, encoding, name),
    ]
    return {"width": layout.width, "height": 360, "data": {"values": rows}, "layer": layers}


def format_styles(mixes: Mixes) -> dict[str, Style]:
    """Return the style of each format that a group could have."""
    groups = [group for mix in mixes.choices.values() for group in mix.groups]
    schemes = dict.fromkeys(scheme for group in groups for scheme in group.sensitivities)
    return assign_styles([*schemes, UNROUNDED])


def kind_of(group: GroupChoice) -> str:
    """Return the kind of a group: the last components of its modules' names, or experts."""
    if ".experts." in f"{group.name}.":
        return "experts"
    return ", ".join(dict.fromkeys(module.rpartition(".")[2].removesuffix("_proj") for module in group.modules))


def _choice_chart(name: str, title: str, mix: Mix, styles: dict[str, Style]) -> Chart:
    return Chart(
        name,
        title,
        described({each: style.shape for each, style in styles.items()}),
        lambda layout: _choice(mix.groups, styles, layout),
    )


def _choice(groups: Sequence[GroupChoice], styles: dict[str, Style], layout: Layout) -> Spec:
    """Return a grid of layers and kinds of groups, each with the mark of its format."""
    kinds, layers = list(dict.fromkeys(map(kind_of, groups))), [group.layer for group in groups]
    rows: Records = [
        {
            "layer": group.layer,
            "kind": kind_of(group),
            "color": styles[group.format].colour,
            "shape": styles[group.format].shape,
            "hover": f"{group.name}: {group.format}, {number(8 * group.bytes / group.weights, 2)} bits",
        }
        for group in groups
    ]
    extent = [min(layers) - 0.5, max(layers) + 0.5]
    width = layout.width - (layout.names if layout is WIDE else layout.names - 40)
    axis = {"ticks": False, "domain": False, "grid": False, "labelLimit": layout.names, "labelPadding": 8}
    depth = {"format": "d", "tickMinStep": 1, "tickCount": 12 if layout is WIDE else 6, "grid": False}
    encoding = {
        "x": quantity("layer", domain=extent, title="Layer", axis=depth),
        "y": {"field": "kind", "type": "nominal", "scale": {"domain": kinds}, "title": None, "axis": axis},
    }
    side = min(18.0, 0.8 * width / (extent[1] - extent[0]))
    mark = {
        "fill": from_row("color"),
        "shape": from_row("shape"),
        "description": {"field": "hover", "type": "nominal"},
    }
    point = {"type": "point", "filled": True, "size": side * side, "opacity": 1, "stroke": SURFACE, "strokeWidth": 0.6}
    drawn = [layer(point, encoding, mark)]
    return {"width": width, "height": 30 * len(kinds), "data": {"values": rows}, "layer": drawn}
