"""The table of results as flat records, one per variant with intervals and differences, for CSV and the JSON line."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from pipeline.compare.comparison import DIVERGENCE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.stages.report.document import Report

# Spreadsheets interpret a text with one of these prefixes as a formula.
FORMULA = ("=", "+", "-", "@", "\t")


def records(comparison: Comparison) -> list[dict[str, object]]:
    """Return one record per variant; a missing figure is None, with its reason in `reason`."""
    return [_record(row, comparison) for row in comparison.rows]


def to_csv(comparison: Comparison) -> str:
    """Return the records as CSV, with units in the header."""
    rows = records(comparison)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(name) for name in names])
    writer.writerows([[_harmless(row.get(name)) for name in names] for row in rows])
    return text.getvalue()


def to_line(report: Report, page: str) -> str:
    """Return the result as one line of JSON, the last line of standard output."""
    line = {
        "schema_version": report.schema_version,
        "model": report.model,
        "machine": report.machine,
        "baseline": report.comparison.baseline,
        "verdict": report.verdict.answer.text,
        "recommended": report.verdict.recommended,
        "variants": [_brief(record) for record in records(report.comparison)],
        "report": page,
    }
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def _brief(record: dict[str, object]) -> dict[str, object]:
    """Return the figures that are not missing, to six digits; the file has full precision."""
    return {n: float(f"{v:.6g}") if isinstance(v, float) else v for n, v in record.items() if v not in (None, "")}


def _record(row: Row, comparison: Comparison) -> dict[str, object]:
    record: dict[str, object] = {
        "variant": row.name,
        "label": row.label,
        "baseline": row.is_baseline,
        "emulated": " ".join(row.emulated),
        "speed_claim": row.claims_speed,
    }
    reasons: dict[str, None] = {}
    for column in comparison.metrics:
        name = f"{column.name}_{column.unit.replace('/', '_per_')}" if column.unit != "ms" else column.name
        speed = row.speed[column.name]
        figure = speed.measured if isinstance(speed, SpeedCell) else None
        change = speed.change if isinstance(speed, SpeedCell) and isinstance(speed.change, Change) else None
        record |= {name: figure.mean if figure else None, **_ends(name, figure.interval if figure else None)}
        record |= {f"{name}_change_percent": change.percent if change else None}
        record |= _ends(f"{name}_change_percent", change.interval if change else None)
        if isinstance(speed, Missing):
            reasons[speed.reason] = None
    size = row.size if isinstance(row.size, SizeCell) else None
    ratio = size.ratio if size and not isinstance(size.ratio, Missing) else None
    record |= {"checkpoint_bytes": size.bytes if size else None, "checkpoint_ratio": ratio}
    for task in comparison.tasks:
        cell = row.tasks[task]
        score = cell.accuracy if isinstance(cell, TaskCell) else None
        paired = cell.change if isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference) else None
        record |= {task: score.value if score else None, **_ends(task, score.interval if score else None)}
        record |= {f"{task}_items": score.n if score else None, f"{task}_change": paired.difference if paired else None}
        record |= _ends(f"{task}_change", paired.interval if paired else None)
        record |= {f"{task}_p": paired.p_value if paired else None}
        if isinstance(cell, Missing):
            reasons[cell.reason] = None
    if any(other.perplexity is not None for other in comparison.rows):
        record |= _divergence(row)
        if isinstance(row.divergence, Missing) and not row.is_baseline:
            reasons[row.divergence.reason] = None
    return {**record, "reason": "; ".join(reasons)}


def _divergence(row: Row) -> dict[str, object]:
    cell = row.divergence if isinstance(row.divergence, DivergenceCell) and not row.is_baseline else None
    figures = {
        f"{DIVERGENCE}_nats_per_token": cell.kl if cell else None,
        "top1_agreement": cell.agreement if cell else None,
        "perplexity_ratio": cell.perplexity_ratio if cell else None,
    }
    record: dict[str, object] = {"perplexity": row.perplexity}
    for name, figure in figures.items():
        record |= {name: figure.value if figure else None, **_ends(name, figure.interval if figure else None)}
    return record


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
