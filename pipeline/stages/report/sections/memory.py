"""Memory while serving (weights, KV cache, overhead at the peak), and the sizes of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.compare.comparison import SIZE, Comparison, Row, SizeCell
from pipeline.compare.roofline.memory_fit import Fit
from pipeline.results.base import Missing
from pipeline.results.bench import Memory
from pipeline.stages.report.blocks import PAGE, Block, Heading, Key, Mark, Picture, Prose, Section, Table, lead
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import decimals, number, size_unit
from pipeline.stages.report.sections.results import Results
from pipeline.stages.report.vega.panels import Strip, hover, mark, strips
from pipeline.stages.report.vega.spec import (
    INK,
    NAMES,
    NARROW,
    SURFACE,
    WIDE,
    Chart,
    Layout,
    Records,
    Spec,
    from_row,
    layer,
    quantity,
)
from pipeline.stages.report.vega.styles import FAMILY_COLOURS

PARTS = {"weights": "var(--s-1)", "KV cache": "var(--s-3)", "everything else, at the peak": "var(--s-8)"}


def section(report: Report) -> Section | None:
    """Return the memory of the measured servers, and the sizes of the checkpoints."""
    comparison = report.comparison
    held, sizes = memory_chart(comparison), size_chart(comparison)
    if not comparison.is_measured and sizes is None:
        return None
    blocks: list[Block] = []
    if held:
        blocks += [
            lead(
                "Memory of the server during the measurement, of several GPUs that of one. vLLM reserves memory for "
                "the KV cache; smaller weights leave more of it."
            ),
            Key([Mark(name, colour, "square") for name, colour in PARTS.items()], media=PAGE),
            Picture(held, [memory_table(comparison, report.fits)]),
            Heading("Checkpoint size", media=PAGE),
        ]
    if sizes:
        blocks.append(Picture(sizes, [size_table(comparison)], media=PAGE))
    else:
        blocks.append(Prose("n/a: no checkpoint has been made.", "empty", media=PAGE))
    return Section("memory", "Memory", "Memory", blocks)


def parts_of(memory: Memory) -> dict[str, int]:
    """Return the bytes of each known part; everything else is the peak minus weights and KV cache."""
    weights, cache = memory.weights_bytes, memory.kv_cache_bytes
    found = {"weights": weights, "KV cache": cache}
    if memory.peak_bytes is not None and weights is not None and cache is not None:
        found["everything else, at the peak"] = max(0, memory.peak_bytes - weights - cache)
    return {name: size for name, size in found.items() if size}


def memory_of(row: Row) -> Memory | None:
    """Return the memory of a variant's server, under the protocol with the highest peak."""
    found = [each.memory for each in row.benchmarks.values() if each.memory is not None]
    return max(found, key=lambda memory: (memory.peak_bytes or 0, memory.kv_cache_bytes or 0), default=None)


def _unobserved(row: Row) -> Memory | None:
    """Return what the files and another stage's server tell of a variant without a benchmark; None without a server."""
    if row.kv_cache_tokens is None:
        return None
    weights = row.size.bytes if isinstance(row.size, SizeCell) and row.gpus == 1 else None
    unknown = dict.fromkeys(("kv_bytes_per_token", "kv_cache_bytes", "peak_bytes"))
    return Memory(weights_bytes=weights, kv_cache_tokens=row.kv_cache_tokens, **unknown, peak_of="no benchmark")


def memory_chart(comparison: Comparison) -> Chart | None:
    """Return a bar for each variant with recorded server memory."""
    seen = [(row, memory) for row in comparison.rows if (memory := memory_of(row)) is not None]
    held = [(row, memory, parts) for row, memory in seen if (parts := parts_of(memory))]
    if not held:
        return None
    unit, scale = size_unit(sum(parts.values()) for _, _, parts in held)
    digits = min(2, decimals(sum(parts.values()) / scale for _, _, parts in held))
    rows = [
        bar
        for row, memory, parts in held
        for bar in _bars(row.label, parts, memory.kv_cache_tokens, (unit, scale, digits))
    ]
    key = "From the left: weights, KV cache, everything else at the peak."
    return Chart("memory", "Memory while serving", key, lambda layout: _memory(rows, layout))


def _bars(label: str, parts: dict[str, int], tokens: int | None, form: tuple[str, float, int]) -> Records:
    (unit, scale, digits), rows, start = form, [], 0.0
    total = f"{number(sum(parts.values()) / scale, digits)} {unit}"
    for name, size in parts.items():
        rows.append(
            {
                "label": label,
                "low": start,
                "high": start + size / scale,
                "color": PARTS[name],
                "text": f"{total}{f' · {tokens:,} tokens fit' if tokens else ''}",
                "is_last": name == list(parts)[-1],
                "hover": f"{label}, {name}: {number(size / scale, digits)} {unit}",
            }
        )
        start += size / scale
    return rows


def _memory(rows: Records, layout: Layout) -> Spec:
    # The longest bar leaves room for its text.
    room = 1.32 if layout is WIDE else 2.2
    x = quantity("low", domain=[0, room * max(row["high"] for row in rows)], axis=None)
    bar = mark(
        {"type": "bar", "height": 15, "stroke": SURFACE, "strokeWidth": 1},
        x2={"field": "high"},
        color=from_row("color"),
        description=hover(),
    )
    text = mark(
        {"type": "text", "align": "left", "dx": 7, "color": INK, "fontSize": layout.font},
        "datum.is_last",
        x={"field": "high"},
        text={"field": "text", "type": "nominal"},
    )
    return strips([Strip("", rows, x, [bar, text])], list(dict.fromkeys(row["label"] for row in rows)), layout)


def memory_table(comparison: Comparison, fits: Mapping[str, Fit | Missing]) -> Table:
    """Return the bytes of each part, the number of tokens that fit, and the fit into the study's smallest GPU."""
    found = [(row, memory) for row in comparison.rows if (memory := memory_of(row) or _unobserved(row)) is not None]
    sizes = [size for _, m in found for size in (m.weights_bytes, m.kv_cache_bytes, m.peak_bytes) if size]
    unit, scale = size_unit(sizes)
    digits = min(2, decimals(size / scale for size in sizes))

    def show(size: int | None) -> str:
        return "n/a" if size is None else number(size / scale, digits)

    def line(row: Row, m: Memory) -> tuple[str, ...]:
        tokens = "n/a" if m.kv_cache_tokens is None else f"{m.kv_cache_tokens:,}"
        each = "n/a" if m.kv_bytes_per_token is None else f"{m.kv_bytes_per_token:,}"
        held = (show(m.weights_bytes), show(m.kv_cache_bytes), tokens, each, show(m.peak_bytes), m.peak_of)
        return (row.label, *held, _fits(fits.get(row.name, Missing(reason="its checkpoint is not known"))))

    head = (
        "Variant",
        f"Weights ({unit})",
        f"KV cache ({unit})",
        "Tokens that fit",
        "Bytes per token",
        f"Peak ({unit})",
    )
    device = next((f"{fit.device} ({fit.memory_mib:,.0f} MiB)" for fit in fits.values() if isinstance(fit, Fit)), "")
    return Table(
        (*head, "Peak of", f"Starts on {device or 'the smallest GPU'}"),
        [line(*each) for each in found],
        "Memory while serving",
        legend=(
            f"{unit}: powers of ten. Weights: size of the checkpoint's files. KV cache and the tokens that fit: as "
            "vLLM reserved and printed them. Peak: the highest value observed during the benchmark, sampled.",
            *([STARTS] if device else []),
        ),
    )


STARTS = (
    "Starts: vLLM starts if the KV cache holds one request of the full context (max_model_len). Predicted from "
    "weights, KV cache and the activations of one step of vLLM's default size, within serve.gpu_memory_utilization of "
    "the memory that the driver reports. CUDA graphs and memory that the driver reserves are not counted, some 1 to "
    "2 GB on an H200, so a close fit may fail."
)


def _fits(fit: Fit | Missing) -> str:
    if isinstance(fit, Missing):
        return f"n/a ({fit.reason})"
    room = f"{fit.kv_tokens:,} tokens of KV cache for a context of {fit.context:,}"
    return f"{'yes' if fit.fits else 'no'}: {room}"


def size_chart(comparison: Comparison) -> Chart | None:
    """Return checkpoint sizes as bars, in the order of the table."""
    cells = [(row, row.size) for row in comparison.rows if isinstance(row.size, SizeCell)]
    if not cells:
        return None
    unit, scale = size_unit(cell.bytes for _, cell in cells)
    digits = min(2, decimals(cell.bytes / scale for _, cell in cells))
    rows = [
        {
            "label": row.label,
            "value": cell.bytes / scale,
            "color": FAMILY_COLOURS[row.family],
            "text": f"{number(cell.bytes / scale, digits)} {unit}"
            + (f" · {cell.ratio:.2f}×" if isinstance(cell.ratio, float) else ""),
        }
        for row, cell in cells
    ]
    return Chart("size", "Checkpoint size", "Beside each bar its ratio to BF16.", lambda layout: _sizes(rows, layout))


def _sizes(rows: Records, layout: Layout) -> Spec:
    labels = [row["label"] for row in rows]
    # The longest bar leaves room for its text.
    room = 1.2 if layout is WIDE else 1.85
    encoding = {
        "x": quantity("value", domain=[0, room * max(row["value"] for row in rows)], axis=None),
        "y": {
            "field": "label",
            "type": "nominal",
            "scale": {"domain": labels},
            "title": None,
            "axis": {**NAMES, "labelLimit": layout.names},
        },
    }
    text = {"type": "text", "align": "left", "dx": 7, "color": INK, "fontSize": layout.font}
    layers = [
        layer({"type": "bar", "height": 15, "cornerRadiusEnd": 3}, encoding, {"color": from_row("color")}),
        layer(text, encoding, {"text": {"field": "text", "type": "nominal"}}),
    ]
    width = layout.width - layout.names + (40 if layout is NARROW else 0)
    return {"width": width, "height": 28 * len(rows), "data": {"values": rows}, "layer": layers}


def size_table(comparison: Comparison) -> Table:
    """Return each checkpoint's size, its ratio to BF16's, and its bytes."""
    results = Results.of(comparison)
    index = next(i for i, column in enumerate(results.columns) if column.name == SIZE)
    rows = [
        (row.label, cell.value or f"n/a: {cell.missing}", cell.change or "n/a", cell.evidence)
        for row in results.rows
        for cell in (row.cells[index],)
    ]
    head = ("Variant", f"Checkpoint ({results.columns[index].unit})", "Ratio to BF16", "Bytes")
    return Table(head, rows, "Checkpoint sizes")
