"""The results as flat records: one per variant with the figures and words of the first screen, and one per figure.

`report.csv` and the line of JSON have the first, `report_long.csv` has the second.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison, Row, SizeCell, SpeedCell, TaskCell
from pipeline.compare.decide.decision import worst_task
from pipeline.compare.decide.objective import ALONE, cell_at
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.repeats import Change
from pipeline.compare.words import Word, is_reliable, speed_word, task_word
from pipeline.results.base import Missing
from pipeline.results.metrics import METRICS, P99_TPOT, P99_TTFT, THROUGHPUT, THROUGHPUT_PER_GPU, TPOT
from pipeline.results.text import clean, json_line
from pipeline.stages.report.document import Report
from pipeline.stages.report.sections.summary import remark

# Spreadsheets interpret a text with one of these prefixes as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\n")
Record = dict[str, object]
LONG = (
    *("variant", "label", "metric", "load", "unit", "value", "low", "high"),
    *("change", "change_low", "change_high", "change_unit", "verdict", "note"),
)


def records(report: Report) -> list[Record]:
    """Return one record per variant, the columns of `report.csv`; None stands for a figure that was not measured."""
    return [_record(report, row) for row in report.comparison.rows]


def to_csv(report: Report) -> str:
    """Return a line per variant, with units in the header."""
    found = records(report)
    return _csv(list(found[0]) if found else [], found)


def to_long_csv(comparison: Comparison) -> str:
    """Return a line per variant, metric and load, with every interval."""
    return _csv(LONG, list(long_records(comparison)))


def to_line(report: Report, page: str) -> str:
    """Return the result as one line of JSON, the last line of standard output."""
    decision = report.decision
    line = {
        "schema_version": report.schema_version,
        "model": report.model,
        "machine": report.machine,
        "baseline": report.comparison.baseline,
        "decision": decision.model_dump(include={"kind", "variant", "title", "text"}),
        "serve": report.serve.get(decision.variant or ""),
        "next": report.next_command or None,
        "verdict": report.verdict.answer.text,
        "recommended": report.verdict.recommended,
        "variants": [_brief(record) for record in records(report)],
        "report": page,
    }
    return json_line(line)


def _csv(names: Sequence[str], rows: Sequence[Record]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(name) for name in names])
    writer.writerows([[_harmless(_rounded(row.get(name))) for name in names] for row in rows])
    return text.getvalue()


def _brief(record: Record) -> Record:
    """Return the figures that are not missing."""
    return {name: _rounded(value) for name, value in record.items() if value not in (None, "")}


def _rounded(value: object) -> object:
    """Return a number to six digits; report.json has the full precision."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _record(report: Report, row: Row) -> Record:
    comparison = report.comparison
    speed = row.speed[THROUGHPUT.name]
    change = speed.change if isinstance(speed, SpeedCell) and isinstance(speed.change, Change) else None
    size = row.size if isinstance(row.size, SizeCell) else None
    worst = worst_task(row)
    lost = worst[1].change if worst else None
    cell = row.divergence if isinstance(row.divergence, DivergenceCell) and not row.is_baseline else None
    return {
        "variant": row.name,
        "label": row.label,
        "decision": remark(report, row),
        "throughput_tok_s": _mean(speed),
        "throughput_change_percent": change.percent if change else None,
        **_ends("throughput_change_percent", change.interval if change else None),
        "throughput_verdict": _speed_word(comparison, row, THROUGHPUT.name),
        **_per_gpu(comparison, row),
        "tpot_one_user_ms": _mean(cell_at(row, TPOT.name, ALONE)),
        "ttft_p99_ms": _mean(row.details.get(P99_TTFT.name)),
        "tpot_p99_ms": _mean(row.details.get(P99_TPOT.name)),
        "checkpoint_gb": size.bytes / 1e9 if size else None,
        "checkpoint_ratio": size.ratio if size and isinstance(size.ratio, float) else None,
        "kv_cache_tokens": row.kv_cache_tokens,
        "worst_task": worst[0] if worst else None,
        "worst_task_points": 100 * lost.difference if isinstance(lost, PairedDifference) else None,
        **_ends("worst_task_points", _points(lost.interval) if isinstance(lost, PairedDifference) else None),
        "quality_verdict": "" if row.is_baseline else task_word(worst[1]) if worst else "not measured",
        "kl_nats_per_token": cell.kl.value if cell else None,
        "note": "; ".join(_reasons(comparison, row)),
    }


def _per_gpu(comparison: Comparison, row: Row) -> Record:
    """Return the number of GPUs and the throughput of one; nothing where every variant takes one."""
    cell = row.speed.get(THROUGHPUT_PER_GPU.name)
    if cell is None:
        return {}
    change = cell.change if isinstance(cell, SpeedCell) and isinstance(cell.change, Change) else None
    return {
        "gpus": row.gpus,
        "throughput_per_gpu_tok_s": _mean(cell),
        "throughput_per_gpu_change_percent": change.percent if change else None,
        **_ends("throughput_per_gpu_change_percent", change.interval if change else None),
        "throughput_per_gpu_verdict": _speed_word(comparison, row, THROUGHPUT_PER_GPU.name),
    }


def _speed_word(comparison: Comparison, row: Row, metric: str) -> Word | Literal[""]:
    if row.is_baseline:
        return ""
    reliable = is_reliable(comparison, row)
    better = METRICS[metric].better if metric in METRICS else "higher"
    cell = row.details.get(metric, Missing(reason="not measured"))
    return speed_word(cell, better, is_reliable=reliable)


def _reasons(comparison: Comparison, row: Row) -> Iterator[str]:
    """Yield why figures are missing, and what limits the speeds."""
    cells: list[object] = [row.speed[THROUGHPUT.name], *row.tasks.values()]
    if not row.is_baseline and any(other.perplexity is not None for other in comparison.rows):
        cells.append(row.divergence)
    yield from dict.fromkeys(cell.reason for cell in cells if isinstance(cell, Missing))
    if row.emulated:
        yield f"emulated: {', '.join(row.emulated)}"
    yield from row.marks


def long_records(comparison: Comparison) -> Iterator[Record]:
    """Yield one record per variant, metric and load."""
    for row in comparison.rows:
        named: Record = {"variant": row.name, "label": row.label}
        for found in (*_speeds(comparison, row), *_sizes(row), *_tasks(row), *_divergence(row)):
            yield {**named, **found}


def _speeds(comparison: Comparison, row: Row) -> Iterator[Record]:
    for metric, cell in row.details.items():
        yield _speed(metric, row.headline or "", cell, _speed_word(comparison, row, metric), "; ".join(row.marks))
    for protocol, benchmark in row.benchmarks.items():
        for load in benchmark.loads:
            if load.name != row.headline or protocol != next(iter(row.benchmarks)):
                failed = (g.name for g in benchmark.guards if g.passed is False and g.load in (None, load.name))
                notes = "; ".join(dict.fromkeys(failed))
                for metric, cell in load.cells.items():
                    yield _speed(metric, f"{protocol}: {load.name}", cell, "", notes)


def _speed(metric: str, load: str, cell: SpeedCell | Missing, word: str, notes: str) -> Record:
    if isinstance(cell, Missing):
        return {"metric": metric, "load": load, "verdict": "not measured", "note": cell.reason}
    change = cell.change if isinstance(cell.change, Change) else None
    return {
        "metric": metric,
        "load": load,
        "unit": cell.measured.unit,
        "value": cell.measured.mean,
        **_ends("", cell.measured.interval),
        "change": change.percent if change else None,
        **_ends("change", change.interval if change else None),
        "change_unit": "%" if change else "",
        "verdict": word,
        "note": notes,
    }


def _sizes(row: Row) -> Iterator[Record]:
    size = row.size
    if isinstance(size, Missing):
        yield {"metric": SIZE, "verdict": "not measured", "note": size.reason}
        return
    percent = 100 * (size.ratio - 1) if isinstance(size.ratio, float) and not row.is_baseline else None
    yield {
        "metric": SIZE,
        "unit": "bytes",
        "value": size.bytes,
        "change": percent,
        "change_unit": "" if percent is None else "%",
    }


def _tasks(row: Row) -> Iterator[Record]:
    for task, cell in row.tasks.items():
        if isinstance(cell, Missing):
            yield {"metric": task, "verdict": "not measured", "note": cell.reason}
            continue
        yield {"metric": task, "unit": "%", "value": 100 * cell.accuracy.value, **_task(row, cell)}


def _task(row: Row, cell: TaskCell) -> Record:
    paired = cell.change if isinstance(cell.change, PairedDifference) else None
    loss = "" if isinstance(cell.loss, Missing) else cell.loss.text
    return {
        **_ends("", _points(cell.accuracy.interval)),
        "change": 100 * paired.difference if paired else None,
        **_ends("change", _points(paired.interval) if paired else None),
        "change_unit": "points" if paired else "",
        "verdict": "" if row.is_baseline else task_word(cell),
        "note": "; ".join(filter(None, (f"{cell.accuracy.n} items", loss))),
    }


def _divergence(row: Row) -> Iterator[Record]:
    if row.perplexity is None:
        return
    yield {"metric": "perplexity", "value": row.perplexity}
    if isinstance(row.divergence, Missing) or row.is_baseline:
        return
    for name, unit, figure in (
        (DIVERGENCE, "nats/token", row.divergence.kl),
        ("top1_agreement", "", row.divergence.agreement),
        ("perplexity_ratio", "", row.divergence.perplexity_ratio),
    ):
        yield {"metric": name, "unit": unit, "value": figure.value, **_ends("", figure.interval)}


def _mean(cell: SpeedCell | Missing | None) -> float | None:
    return cell.measured.mean if isinstance(cell, SpeedCell) else None


def _points(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(low=100 * interval.low, high=100 * interval.high)


def _ends(name: str, interval: Interval | None) -> Record:
    prefix = f"{name}_" if name else ""
    return {
        f"{prefix}low": interval.low if interval else None,
        f"{prefix}high": interval.high if interval else None,
    }


def _harmless(value: Any) -> Any:
    """Return a text that neither a terminal nor a spreadsheet obeys; any other value as it is."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(FORMULA) else text
