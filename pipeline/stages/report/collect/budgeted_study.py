"""A study with a budget: what its artifacts tell so far, what to measure next, and where the minutes went.

Everything is read from the artifacts, so that a study that was interrupted goes on, and a report of it needs no record
of its own. The rule is `pipeline.compare.decide.allocation`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from pipeline.artifacts.workspace import Artifact
from pipeline.compare.decide.allocation import (
    STAGES,
    Allocation,
    Design,
    Evidence,
    Kind,
    Pairs,
    Step,
    TaskPlan,
    allocate,
)
from pipeline.compare.decide.speed_chances import SCREEN, Block
from pipeline.compare.stats.accuracy import pair
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.kl_divergence import diverge
from pipeline.compare.stats.noninferiority import task_margin
from pipeline.compare.tasks import on_same_items
from pipeline.config import Stage
from pipeline.job import Job
from pipeline.results.base import Missing, read
from pipeline.results.eval import EvalResult
from pipeline.results.metrics import THROUGHPUT
from pipeline.results.records import Record, TaskScores
from pipeline.results.text import signed_percent
from pipeline.stages.report.collect.artifacts import Item, Source
from pipeline.stages.report.collect.labels import label_in, task_label
from pipeline.stages.report.collect.records import record_of
from pipeline.stages.report.collect.requirements import margins_in
from pipeline.stages.report.document import Spending, Spent

# Coefficient of variation of a repeat, as long as no variant has two.
REPEAT_CV = 0.02


@dataclass
class Measured:
    """The finished parts of one variant: the screen, blocks by number, and the largest share of the items."""

    screen: Record | None = None
    blocks: dict[int, Record] = field(default_factory=dict)
    scores: Record | None = None
    minutes: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))
    # Of the gate's server, until it answers.
    start_minutes: float | None = None
    # Items of each task, and the minutes of one.
    sizes: dict[str, int] = field(default_factory=dict)
    item_minutes: dict[str, float] = field(default_factory=dict)
    artifacts: dict[Stage, list[Artifact]] = field(default_factory=lambda: {Stage.BENCH: [], Stage.EVAL: []})


class BudgetedStudy:
    """The state of a study; a new object is made after every round."""

    def __init__(self, jobs: Sequence[Job], stopped: Container[str] = ()) -> None:
        """Read the artifacts of all variants; those `stopped` by a failure, or untimed, are not measured further."""
        self.jobs = {str(job.variant): job for job in jobs}
        self.settings = jobs[0].settings
        self.names = [name for name, job in self.jobs.items() if name not in stopped and not job.untimed]
        unchanged = (name for name in self.names if self.jobs[name].settings.is_baseline)
        self.baseline = min(unchanged, key=lambda name: self.jobs[name].variant.gpus, default=None)
        # BF16 has a block in each round; the others may miss some in between.
        rounds = _rounds(self.jobs[self.baseline]) if self.baseline else 0
        self.measured = {name: _measured(job, rounds) for name, job in self.jobs.items()}

    @classmethod
    def finished(cls, jobs: Sequence[Job], stopped: Container[str]) -> BudgetedStudy:
        """Return the study without the variants whose next measurement has failed, as it is reported."""
        out = {str(job.variant) for job in jobs if str(job.variant) in stopped}
        while True:
            study = cls(jobs, out)
            due = ((str(job.variant), job.artifact(stage).manifest()) for job, stage in study.due())
            failed = {name for name, manifest in due if manifest is not None and manifest.status != "ok"}
            if not failed:
                return study
            out |= failed

    @cached_property
    def allocation(self) -> Allocation:
        """The next round; nothing without BF16, which all are compared with."""
        if self.baseline is None or len(self.names) < 2:
            return Allocation(steps=(), dropped={})
        return allocate(self.evidence, self.baseline, self.design, self._spent)

    def due(self) -> list[tuple[Job, Stage]]:
        """Return the measurements of the next round in order, each variant's together."""
        assert self.baseline is not None or not self.allocation.steps
        steps = self.allocation.steps
        number = len(self.measured[self.baseline].blocks) if self.baseline else 0
        names = list(dict.fromkeys(step.variant for step in steps))
        Random(f"{self.settings.bench.seed} {number}").shuffle(names)
        # BF16 opens one round and closes the next, so that a steady drift of the machine cancels in its mean.
        # Before items it opens each, so that the server of the variant stays for its next stage.
        closes = bool(number % 2) and all(step.kind != "items" for step in steps)
        names.sort(key=lambda name: (name == self.baseline) is closes)
        return [self._job(step, number) for name in names for step in steps if step.variant == name]

    def _job(self, step: Step, number: int) -> tuple[Job, Stage]:
        job = self.jobs[step.variant]
        if step.kind == "items":
            return job.scored(STAGES[step.stage - 1]), Stage.EVAL
        if step.kind == "block":
            return job.in_block(number), Stage.BENCH
        return job.screen, Stage.EVAL if step.kind == "kl" else Stage.BENCH

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """The results of every variant, as the rule takes them."""
        assert self.baseline is not None
        bf16, noise = self.measured[self.baseline], self._repeat_variance
        found = {}
        for name in self.names:
            each = self.measured[name]
            blocks = {number: _block(record, noise) for number, record in each.blocks.items()}
            screen = _block(each.screen, noise)
            found[name] = Evidence(
                blocks={
                    number: block
                    for number, block in {SCREEN: screen, **blocks}.items()
                    # Compared within a block: one that BF16 does not have yet cannot be.
                    if block is not None and (number == SCREEN or number in bf16.blocks)
                },
                kl=self._divergences.get(name),
                tasks=_pairs(each.scores, bf16.scores),
            )
        return found

    @cached_property
    def _divergences(self) -> dict[str, Interval | None]:
        """Return the interval of each variant's divergence from BF16 in the screen."""
        bf16 = self.measured[self.baseline] if self.baseline else Measured()
        return {name: _kl(each, bf16) for name, each in self.measured.items() if name != self.baseline}

    @cached_property
    def _repeat_variance(self) -> float:
        """Return the variance of a repeat's logarithm, pooled over all blocks."""
        squares, freedom = 0.0, 0
        for each in self.measured.values():
            for record in each.blocks.values():
                if len(logs := _logs(record)) > 1:
                    squares += statistics.variance(logs) * (len(logs) - 1)
                    freedom += len(logs) - 1
        return squares / freedom if freedom else REPEAT_CV**2

    @cached_property
    def design(self) -> Design:
        """The full run, with costs as measured so far; what was not measured yet costs nothing."""
        assert self.baseline is not None
        bf16, margins = self.measured[self.baseline], margins_in(self.settings)
        screen, repeats = self._mean("screen"), self.settings.bench.repeats
        starts = [each.start_minutes for each in self.measured.values() if each.start_minutes is not None]
        start = statistics.mean(starts) if starts else 0.0
        return Design(
            tasks={
                label: TaskPlan(
                    items=items,
                    margin=task_margin(margins.get(label), items).margin,
                    minutes=bf16.item_minutes.get(label, 0.0),
                )
                for label, items in bf16.sizes.items()
            },
            blocks=self.settings.bench.blocks,
            repeats=repeats,
            session_percent=self.settings.report.tolerance_percent,
            screen=screen,
            kl=self._mean("kl"),
            # A block and the screen discard a repeat of their own.
            block=self._mean("block") or start + screen * (1 + repeats) / 2,
            start=start,
            bench_budget=self.settings.bench.budget_minutes,
            eval_budget=self.settings.eval.budget_minutes,
        )

    def _mean(self, kind: Kind) -> float:
        minutes = [minute for each in self.measured.values() for minute in each.minutes[kind]]
        return math.fsum(minutes) / len(minutes) if minutes else 0.0

    @property
    def _spent(self) -> dict[Kind, float]:
        kinds: tuple[Kind, ...] = ("screen", "kl", "block", "items")
        return {kind: math.fsum(math.fsum(each.minutes[kind]) for each in self.measured.values()) for kind in kinds}

    def artifacts(self, name: str, stage: Stage) -> list[Artifact] | None:
        """Return what the rows of the report show of a variant's stage; None if the study does not divide it."""
        return self.measured[name].artifacts.get(stage)

    @property
    def outcomes(self) -> dict[str, str]:
        """For each variant, why it was or was not measured in full."""
        found = self.allocation
        open_steps = bool(found.unaffordable) or bool(found.steps)
        rest = "cannot tell: the budget does not allow another round" if found.unaffordable else "not decided yet"
        outcomes = {name: found.dropped.get(name, rest if open_steps else "no clear answer") for name in self.names}
        outcomes |= {
            name: job.untimed or "a stage of it failed" for name, job in self.jobs.items() if name not in self.names
        }
        if found.answer:
            outcomes[found.answer] = "the answer: measured in full"
        if self.baseline:
            outcomes[self.baseline] = "as far as the others needed it"
        return outcomes

    def spending(self) -> Spending:
        """Return where the minutes went, for the report."""
        return Spending(
            bench_budget=self.settings.bench.budget_minutes,
            eval_budget=self.settings.eval.budget_minutes,
            rows=tuple(self._rows()),
        )

    def _rows(self) -> Iterator[Spent]:
        outcomes = self.outcomes
        bf16 = self.measured[self.baseline] if self.baseline else Measured()
        reference = _block(bf16.screen, 0.0)
        for name, each in self.measured.items():
            own = _block(each.screen, 0.0)
            change = own.log_mean - reference.log_mean if own and reference and name != self.baseline else None
            kl = self._divergences.get(name)
            yield Spent(
                name=name,
                screen="" if change is None else signed_percent(math.expm1(change)),
                kl=kl if kl and math.isfinite(kl.high) else None,
                blocks=len(each.blocks),
                items=sum(task.n for task in _tasks(each.scores).values()),
                items_of=sum(bf16.sizes.values()),
                bench_minutes=math.fsum([*each.minutes["screen"], *each.minutes["block"]]),
                eval_minutes=math.fsum([*each.minutes["kl"], *each.minutes["items"]]),
                outcome=outcomes[name],
            )


def _rounds(bf16: Job) -> int:
    """Return the number of blocks that BF16 has."""
    number = 0
    while _finished(bf16.in_block(number).artifact(Stage.BENCH)):
        number += 1
    return number


def _measured(job: Job, rounds: int) -> Measured:
    """Read the finished parts of one variant."""
    found = Measured()
    screened: dict[Stage, Item] = {}
    kinds: Mapping[Stage, Kind] = {Stage.BENCH: "screen", Stage.EVAL: "kl"}
    for stage, kind in kinds.items():
        if item := _finished(job.screen.artifact(stage)):
            screened[stage] = item
            found.minutes[kind].append(item[1].seconds / 60)
    if screened:
        found.screen = _record(job, screened)
    if Stage.EVAL in screened and not isinstance(result := read(EvalResult, screened[Stage.EVAL][1]), Missing):
        found.sizes = {label_in(job.settings, label): size for label, size in result.sizes.items()}
        if result.server is not None and result.server.ready_s is not None:
            found.start_minutes = result.server.ready_s / 60
    # Of a round that was interrupted, others may have the block before BF16 does.
    for number in range(rounds + 1):
        artifact = job.in_block(number).artifact(Stage.BENCH)
        if item := _finished(artifact):
            found.artifacts[Stage.BENCH].append(artifact)
            found.blocks[number] = _record(job, {Stage.BENCH: item})
            found.minutes["block"].append(item[1].seconds / 60)
    for share in STAGES:
        artifact = job.scored(share).artifact(Stage.EVAL)
        if item := _finished(artifact):
            found.artifacts[Stage.EVAL] = [artifact]
            found.scores = _record(job, {Stage.EVAL: item})
            found.minutes["items"].append(item[1].seconds / 60)
            if not isinstance(result := read(EvalResult, item[1]), Missing) and not found.item_minutes:
                found.item_minutes = {
                    task_label(label, task.task): result.seconds.get(label, 0.0) / 60 / task.n
                    for label, task in result.tasks.items()
                    if task.n
                }
    return found


def _finished(artifact: Artifact) -> Item | None:
    manifest = artifact.manifest()
    return (artifact.folder, manifest) if manifest is not None and manifest.status == "ok" else None


def _record(job: Job, items: Mapping[Stage, Item]) -> Record:
    source = Source(variant=job.variant, label=str(job.variant), quant={}, kv_dtype=job.settings.kv_cache.dtype)
    for stage, item in items.items():
        source.add(stage, [item])
    return record_of(source)


def _logs(record: Record) -> list[float]:
    """Return the logarithm of each repeat's throughput of one GPU."""
    metric = None if isinstance(record.speed, Missing) else record.speed.metrics.get(THROUGHPUT.name)
    return [math.log(value / record.gpus) for value in metric.values if value > 0] if metric else []


def _block(record: Record | None, variance: float) -> Block | None:
    logs = _logs(record) if record is not None else []
    return Block(log_mean=statistics.mean(logs), variance=variance / len(logs)) if logs else None


def _kl(variant: Measured, bf16: Measured) -> Interval | None:
    """Return the interval of the divergence; without bounds if it was measured and cannot be read."""
    if not variant.minutes["kl"] or variant.screen is None or bf16.screen is None:
        return None
    ours, theirs = variant.screen.divergence, bf16.screen.divergence
    unknown = Interval(low=0.0, high=math.inf)
    if isinstance(ours, Missing) or isinstance(theirs, Missing):
        return unknown
    cell = diverge(ours, theirs)
    return unknown if isinstance(cell, Missing) else cell.kl.interval or unknown


def _tasks(record: Record | None) -> Mapping[str, TaskScores]:
    return {} if record is None or isinstance(record.tasks, Missing) else record.tasks


def _pairs(variant: Record | None, bf16: Record | None) -> dict[str, Pairs]:
    """Return the items of each task that only one side answers correctly."""
    found = {}
    for label, task in _tasks(variant).items():
        reference = _tasks(bf16).get(label)
        if reference is None or isinstance(task.scores, Missing) or isinstance(reference.scores, Missing):
            continue
        scores = on_same_items(task, reference).scores
        if not isinstance(scores, Missing) and not isinstance(matched := pair(task.scores, scores), Missing):
            gained = sum(ours > theirs for ours, theirs in matched)
            lost = sum(ours < theirs for ours, theirs in matched)
            found[label] = Pairs(gained=gained, lost=lost, n=len(matched))
    return found
