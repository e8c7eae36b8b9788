"""Every variant against BF16: the study's table as data, with the uncertainty that the study does not state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypedDict

from pydantic import Field, InstanceOf

from pipeline.compare.benchmarks import Benchmark, benchmark, headline_cell, marks
from pipeline.compare.benchmarks import SpeedCell as SpeedCell
from pipeline.compare.load_guards import first_repeats
from pipeline.compare.speed_models import TOLERANCE_PERCENT, SpeedModels, group_of
from pipeline.compare.statements import count, listing
from pipeline.compare.stats.accuracy import Mean, PairedDifference, mean_over_tasks
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.kl_divergence import DivergenceCell, diverge, perplexity
from pipeline.compare.stats.measurement_model import StartVariation
from pipeline.compare.stats.noninferiority import MeanLoss, TaskMargin
from pipeline.compare.stats.repeats import Change
from pipeline.compare.tasks import Margins, judged, margins_of, mean_loss, task_cell
from pipeline.compare.tasks import TaskCell as TaskCell
from pipeline.results.base import Frozen, Missing
from pipeline.results.bench import Guard
from pipeline.results.metrics import (
    HEADLINE,
    THROUGHPUT,
    THROUGHPUT_PER_GPU,
    Direction,
    MetricDefinition,
)
from pipeline.results.records import Family, Record, Speed

SIZE = "size"
DIVERGENCE = "kl_from_bf16"


class SizeCell(Frozen):
    """The checkpoint's bytes, and their ratio to the baseline's."""

    bytes: int
    ratio: float | Missing


class Row(Frozen):
    """One variant."""

    name: str
    label: str
    family: Family
    is_baseline: bool
    # Those that served it.
    gpus: int = 1
    emulated: tuple[str, ...]
    size: SizeCell | Missing
    speed: dict[str, SpeedCell | Missing]
    details: dict[str, SpeedCell | Missing]
    # Guards that failed during the measurement: the figures are shown, and marked.
    marks: tuple[str, ...]
    # All benchmarks, by protocol.
    benchmarks: dict[str, Benchmark]
    kv_cache_tokens: int | None
    ready_s: float | None
    tasks: dict[str, TaskCell | Missing]
    mean_accuracy: Mean | Missing
    mean_change: Mean | Missing
    # For the baseline: between two runs of its own.
    divergence: DivergenceCell | Missing
    perplexity: float | None
    mean_loss: MeanLoss | Missing = Missing(reason="the baseline itself")
    # The load whose figures are in `speed` and `details`.
    headline: str | None = None
    # The number format, a key of `formats.schemes`.
    scheme: str = ""

    @property
    def throughput(self) -> str:
        """The throughput that decides: that of one GPU where a variant takes several."""
        return THROUGHPUT_PER_GPU.name if THROUGHPUT_PER_GPU.name in self.speed else THROUGHPUT.name

    def marks_at(self, load: str | None) -> tuple[str, ...]:
        """Return the failed guards of a load's figures, in the first benchmark that has it; else those of the table."""
        if load is None or load == self.headline:
            return self.marks
        measured = (each for each in self.benchmarks.values() if any(one.name == load for one in each.loads))
        return next((each.failed(load) for each in measured), ())

    @property
    def per_gpu(self) -> str:
        """The words behind a throughput that is of one GPU; empty where every variant takes one."""
        return " per GPU" if self.throughput == THROUGHPUT_PER_GPU.name else ""


class Comparison(Frozen):
    """All variants, the baseline first where there is one."""

    baseline: str | None
    level: float = LEVEL
    tasks: tuple[str, ...]
    metrics: tuple[MetricDefinition, ...]
    rows: tuple[Row, ...]
    best: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    # Guards over all variants; those of a variant are in its benchmarks.
    guards: tuple[Guard, ...] = ()
    # The accepted loss on each task.
    margins: dict[str, TaskMargin] = Field({})
    # Smallest gain that the run could have shown with 80 % power, in percent: by metric under the load of the table,
    # and of throughput by protocol and load.
    smallest_gains: dict[str, float] = Field({})
    smallest_gains_by_load: dict[str, dict[str, float]] = Field({})
    starts: StartVariation | None = None
    # The models behind all differences of speed, for pairs other than those with the baseline; not stored.
    models: InstanceOf[SpeedModels] = Field(default_factory=SpeedModels, exclude=True, repr=False)

    @property
    def throughput(self) -> MetricDefinition:
        """The throughput that decides, as of each row."""
        return THROUGHPUT_PER_GPU if THROUGHPUT_PER_GPU in self.metrics else THROUGHPUT

    @property
    def is_measured(self) -> bool:
        """True if anything was benchmarked or scored."""
        return any(
            not isinstance(cell, Missing) for row in self.rows for cell in (*row.speed.values(), *row.tasks.values())
        )

    @property
    def differences(self) -> list[tuple[str, str, Change | PairedDifference]]:
        """Every difference that has an interval and may be claimed, with its variant and column."""
        found: list[tuple[str, str, Change | PairedDifference]] = []
        for row in self.rows:
            for name, cell in row.speed.items():
                if isinstance(cell, SpeedCell) and isinstance(cell.change, Change) and cell.change.interval:
                    found.append((row.name, name, cell.change))
            for task, score in row.tasks.items():
                if isinstance(score, TaskCell) and isinstance(score.change, PairedDifference) and score.change.interval:
                    found.append((row.name, task, score.change))
        return found


def compare(
    records: Sequence[Record],
    tasks: Sequence[str],
    margins: Margins = None,
    tolerance_percent: float = TOLERANCE_PERCENT,
) -> Comparison:
    """Compare all records, in their order, the baseline first.

    Args:
        records: the results.
        tasks: labels of the tasks, in the order of the table.
        margins: accepted loss, a share, for all tasks or by task; other tasks have one that their set can show.
        tolerance_percent: by which changes in speed are widened where each server was started once.
    """
    ordered = sorted(records, key=lambda record: not record.is_baseline)
    baseline = next((record for record in ordered if record.is_baseline), None)
    by_task = margins_of(records, tasks, margins)
    models = SpeedModels(ordered, tolerance_percent)
    columns = _columns(ordered)
    rows = _judged([_row(record, baseline, tasks, models, columns) for record in ordered], by_task)
    return Comparison(
        baseline=None if baseline is None else baseline.name,
        tasks=tuple(tasks),
        metrics=columns,
        rows=rows,
        best=_best(rows, tasks, columns),
        notes=tuple(_notes(ordered, baseline)),
        guards=first_repeats(ordered),
        margins=by_task,
        **_precision(baseline, models, columns),
        models=models,
    )


def _columns(records: Sequence[Record]) -> tuple[MetricDefinition, ...]:
    """Return the metrics of the table: with the throughput of one GPU where the records have it."""
    speeds = [record.speed for record in records if isinstance(record.speed, Speed)]
    if any(THROUGHPUT_PER_GPU.name in speed.metrics for speed in speeds):
        return (THROUGHPUT, THROUGHPUT_PER_GPU, *HEADLINE[1:])
    return HEADLINE


class _Precision(TypedDict, total=False):
    smallest_gains: dict[str, float]
    smallest_gains_by_load: dict[str, dict[str, float]]
    starts: StartVariation | None


def _precision(baseline: Record | None, models: SpeedModels, columns: Sequence[MetricDefinition]) -> _Precision:
    """Return the differences that the benchmarks could have shown, and the variation between starts of a server."""
    if baseline is None or isinstance(baseline.speed, Missing):
        return {}
    headline = group_of(baseline.speed, baseline.speed.headline)
    gains = {metric.name: models.smallest_gain(headline, metric.name) for metric in columns}
    by_load = {
        protocol: {
            load.name: gain
            for load in speed.loads
            if (gain := models.smallest_gain(group_of(speed, load.name), THROUGHPUT.name)) is not None
        }
        for protocol, speed in {baseline.speed.protocol: baseline.speed, **baseline.protocols}.items()
    }
    return {
        "smallest_gains": {name: gain for name, gain in gains.items() if gain is not None},
        "smallest_gains_by_load": {protocol: gains for protocol, gains in by_load.items() if gains},
        "starts": models.model(headline, THROUGHPUT.name).start_variation(baseline.name),
    }


def _row(
    record: Record,
    baseline: Record | None,
    tasks: Sequence[str],
    models: SpeedModels,
    columns: Sequence[MetricDefinition],
) -> Row:
    cells = {task: task_cell(record, baseline, task) for task in tasks}
    changes = [c.change for c in cells.values() if isinstance(c, TaskCell) and isinstance(c.change, PairedDifference)]
    scored = [cell.accuracy for cell in cells.values() if isinstance(cell, TaskCell)]
    speed = record.speed if isinstance(record.speed, Speed) else None
    return Row(
        name=record.name,
        label=record.label,
        family=record.family,
        is_baseline=record.is_baseline,
        gpus=record.gpus,
        emulated=record.emulated,
        size=_size(record, baseline),
        speed={column.name: headline_cell(record, baseline, column.name, column.unit, models) for column in columns},
        details={}
        if speed is None
        else {name: headline_cell(record, baseline, name, m.unit, models) for name, m in speed.metrics.items()},
        marks=marks(record, baseline),
        benchmarks={name: benchmark(each, record, baseline, models) for name, each in record.protocols.items()},
        kv_cache_tokens=record.kv_cache_tokens,
        ready_s=speed.server.ready_s if speed else None,
        tasks=cells,
        mean_accuracy=_mean([(score.value, score.interval) for score in scored], tasks),
        mean_change=_mean([(change.difference, change.interval) for change in changes], tasks),
        divergence=_divergence(record, baseline),
        perplexity=None if isinstance(record.divergence, Missing) else perplexity(record.divergence),
        headline=speed.headline if speed else None,
        scheme=record.scheme,
    )


def _judged(rows: Sequence[Row], margins: Mapping[str, TaskMargin]) -> tuple[Row, ...]:
    """Return the rows with a verdict on each task's loss, and on their mean."""
    baseline = next((row.tasks for row in rows if row.is_baseline), {})
    cells = judged([(row.name, row.tasks) for row in rows], baseline, margins)
    return tuple(
        row.model_copy(
            update={
                "tasks": each,
                "mean_loss": Missing(reason="the baseline itself") if row.is_baseline else mean_loss(each, margins),
            }
        )
        for row, each in zip(rows, cells, strict=True)
    )


def _mean(parts: list[tuple[float, Interval | None]], tasks: Sequence[str]) -> Mean | Missing:
    """Return the mean over all tasks; a mean over fewer tasks than in other rows would not be comparable."""
    return mean_over_tasks(parts) if len(parts) == len(tasks) else Missing(reason="not every task has a figure")


def _size(record: Record, baseline: Record | None) -> SizeCell | Missing:
    if isinstance(record.size, Missing):
        return record.size
    reference = record.size.baseline_bytes
    if baseline is not None and not isinstance(baseline.size, Missing):
        reference = baseline.size.bytes
    ratio = record.size.bytes / reference if reference else Missing(reason="the size of BF16 is not known")
    return SizeCell(bytes=record.size.bytes, ratio=ratio)


def _divergence(record: Record, baseline: Record | None) -> DivergenceCell | Missing:
    logprobs = record.divergence_again if record.is_baseline else record.divergence
    if isinstance(logprobs, Missing):
        return logprobs
    if baseline is None:
        return Missing(reason="no BF16 baseline among the results")
    if isinstance(baseline.divergence, Missing):
        return Missing(reason=f"BF16: {baseline.divergence.reason}")
    return diverge(logprobs, baseline.divergence)


def _best(rows: Sequence[Row], tasks: Sequence[str], columns: Sequence[MetricDefinition]) -> dict[str, tuple[str, ...]]:
    """Return the rows with the best figure of each column, where that is shown to be better than BF16's.

    Figures whose guards failed (theirs or BF16's) are not ranked.
    """
    best: dict[str, tuple[str, ...]] = {}

    def mark(column: str, better: Direction, figures: dict[str, float], shown: set[str]) -> None:
        if len(figures) > 1:
            choose: Callable[..., float] = max if better == "higher" else min
            top = choose(figures.values())
            if leaders := tuple(name for name, figure in figures.items() if figure == top and name in shown):
                best[column] = leaders

    is_sound = not any(row.marks for row in rows if row.is_baseline)
    for metric in columns:
        found = {row.name: row.speed[metric.name] for row in rows if is_sound and not row.marks}
        cells = {name: cell for name, cell in found.items() if isinstance(cell, SpeedCell)}
        gains = {name for name, cell in cells.items() if _is_gain(cell, metric.better)}
        mark(metric.name, metric.better, {name: cell.measured.mean for name, cell in cells.items()}, gains)
    sizes = {row.name: row.size for row in rows if isinstance(row.size, SizeCell)}
    smaller = {name for name, size in sizes.items() if isinstance(size.ratio, float) and size.ratio < 1}
    mark(SIZE, "lower", {name: float(size.bytes) for name, size in sizes.items()}, smaller)
    for task in tasks:
        scored = {row.name: cell for row in rows if isinstance(cell := row.tasks[task], TaskCell)}
        gains = {name for name, cell in scored.items() if cell.is_gain}
        mark(task, "higher", {name: cell.accuracy.value for name, cell in scored.items()}, gains)
    diverged = [(r.name, r.divergence) for r in rows if not r.is_baseline and isinstance(r.divergence, DivergenceCell)]
    apart = {name for name, _ in diverged} if _apart([cell for _, cell in diverged]) else set()
    mark(DIVERGENCE, "lower", {name: cell.kl.value for name, cell in diverged}, apart)
    return best


def _is_gain(cell: SpeedCell, better: Direction) -> bool:
    """Return True if a speed is clearly better than BF16's."""
    change = cell.change
    return isinstance(change, Change) and change.is_clear and (change.percent > 0) == (better == "higher")


def _apart(cells: Sequence[DivergenceCell]) -> bool:
    """Return True if the interval of the least divergence is apart from all others."""
    intervals = [cell.kl.interval for cell in sorted(cells, key=lambda cell: cell.kl.value)]
    known = [each for each in intervals if each is not None]
    return len(known) == len(intervals) and all(known[0].high < other.low for other in known[1:])


def _marked(records: Sequence[Record], baseline: Record | None) -> Iterator[str]:
    """Yield each guard that failed once, with the variants it failed for; what it saw where that is one thing."""
    by_guard: dict[str, dict[str, list[str]]] = {}
    for record in records:
        for mark in marks(record, baseline):
            name, _, text = mark.partition(": ")
            by_guard.setdefault(name, {}).setdefault(text, []).append(record.label)
    for name, seen in by_guard.items():
        labels = list(dict.fromkeys(label for each in seen.values() for label in each))
        is_one = len(seen) == 1 or len(labels) == 1
        text = "; ".join(seen) if is_one else "each as in the table of guards"
        yield f"{listing(labels)}, unreliable: {name}: {text}."


def _incomplete(records: Sequence[Record]) -> Iterator[str]:
    """Yield the items, prompts and answers of a task that are not whole, counted for all variants in one line."""
    counts: dict[str, list[str]] = {}
    for record in records:
        for label, task in {} if isinstance(record.tasks, Missing) else record.tasks.items():
            for what, number, of, is_noted in (
                ("Items of {} that were scored", task.n, task.asked, task.n < task.asked),
                ("Prompts of {} that lost their beginning in the context", task.truncated, task.n, task.truncated),
                ("Answers of {} that reached the token limit", task.unfinished, task.n, task.unfinished),
            ):
                if is_noted:
                    counts.setdefault(what.format(label), []).append(f"{record.label} {number:,} of {of:,}")
    yield from (f"{what}: {', '.join(found)}." for what, found in counts.items())


def _notes(records: Sequence[Record], baseline: Record | None) -> list[str]:
    """Return the limitations of single cells."""
    found = []
    if baseline is not None and len({record.gpus for record in records}) > 1:
        found.append(f"BF16 that others are compared with is {baseline.label}, on {count(baseline.gpus, 'GPU')}.")
    found += [*_marked(records, baseline), *_incomplete(records)]
    for record in records:
        if record.faults:
            found.append(
                f"{record.label} was quantized by others, and the gate found in it: {'; '.join(record.faults)}."
            )
        if isinstance(record.speed, Speed) and record.speed.failed:
            found.append(f"{record.label}: {record.speed.failed} of {record.speed.asked} benchmark requests failed.")
        for label, task in {} if isinstance(record.tasks, Missing) else record.tasks.items():
            if task.asked_again:
                answers = f"{task.asked_again} greedy answers of {label}"
                found.append(
                    f"{record.label}: {task.differing} of {answers} differed when repeated, "
                    "which the format does not explain."
                    if task.differing
                    else f"{record.label}: all {answers} were identical when repeated."
                )
            if not isinstance(task.scores, Missing) and task.scores:
                mean = sum(score for _, score in task.scores) / len(task.scores)
                # Half a unit of the last digit shown; a weighted mean over subtasks may differ by rounding alone.
                if abs(mean - task.value) > 5e-4:
                    found.append(
                        f"{record.label}: {label} is recorded as {100 * task.value:.2f} %, its items average "
                        f"{100 * mean:.2f} %; the difference from BF16 is computed from the items."
                    )
    return found
