"""What a server holds: weights, room for keys and values, and what was seen on top of both."""

from __future__ import annotations

from typing import Any

from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.memory_fit import Fit
from pipeline.results.base import Missing
from pipeline.results.bench import Memory
from pipeline.stages.report.number_format import decimals, number, size_unit
from pipeline.stages.report.vega.panels import Strip, hover, mark, strips
from pipeline.stages.report.vega.spec import INK, SURFACE, WIDE, Chart, Layout, own, quantity

PARTS = {"weights": "var(--s-1)", "KV cache": "var(--s-3)", "everything else, at the peak": "var(--s-8)"}


def parts_of(memory: Memory) -> dict[str, int]:
    """Bytes of each part that is known; everything else is what the peak has beyond the other two."""
    weights, cache = memory.weights_bytes, memory.kv_cache_bytes
    found = {"weights": weights, "KV cache": cache}
    if memory.peak_bytes is not None and weights is not None and cache is not None:
        found["everything else, at the peak"] = max(0, memory.peak_bytes - weights - cache)
    return {name: size for name, size in found.items() if size}


def memory_of(row: Row) -> tuple[Memory, Fit | Missing] | None:
    """What a variant's server held, under the protocol where it held most, and whether that fits elsewhere."""
    found = [(each.memory, each.fit) for each in row.benchmarks.values() if each.memory is not None]
    return max(found, key=lambda item: (item[0].peak_bytes or 0, item[0].kv_cache_bytes or 0), default=None)


def memory_chart(comparison: Comparison) -> Chart | None:
    """A bar for each variant whose server said what it holds."""
    seen = [(row, found[0]) for row in comparison.rows if (found := memory_of(row)) is not None]
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
    return Chart.of("memory", "Memory while serving", key, lambda layout: _memory(rows, layout))


def _bars(label: str, parts: dict[str, int], tokens: int | None, form: tuple[str, float, int]) -> list[dict[str, Any]]:
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


def _memory(rows: list[dict[str, Any]], layout: Layout) -> dict[str, Any]:
    # The longest bar leaves room for its text.
    room = 1.32 if layout is WIDE else 2.2
    x = quantity("low", domain=[0, room * max(row["high"] for row in rows)], axis=None)
    bar = mark(
        {"type": "bar", "height": 15, "stroke": SURFACE, "strokeWidth": 1},
        x2={"field": "high"},
        color=own("color"),
        description=hover(),
    )
    text = mark(
        {"type": "text", "align": "left", "dx": 7, "color": INK, "fontSize": layout.font},
        "datum.is_last",
        x={"field": "high"},
        text={"field": "text", "type": "nominal"},
    )
    return strips([Strip("", rows, x, [bar, text])], list(dict.fromkeys(row["label"] for row in rows)), layout)
