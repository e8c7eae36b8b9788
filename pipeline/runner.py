"""The runner: decides which steps are due, runs them in order, and contains failures.

Several variants run in one process, stage by stage while nothing is served and variant by variant from then on, so
that each variant's stages share a server. Further blocks of the benchmark follow, each with a new server for every
variant. Where there are several GPUs, blocks and scores are divided among lanes, processes with GPUs of their own
(`lanes`, `schedule`). A variant that fails does not stop the others.

With a budget, each round of measurements follows from the results of the rounds before (`budgeted_study`).
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.markup import escape

from pipeline import feasibility, interruption, lanes, schedule, waiting_threads
from pipeline.artifacts import kill_notice, provenance
from pipeline.artifacts.keys import Digests
from pipeline.artifacts.workspace import Artifact, Workspace
from pipeline.config import BenchSettings, Command, Settings, Stage
from pipeline.config.compose import unapplied
from pipeline.errors import NotApplicable, PipelineError, StageError, StorageError
from pipeline.feasibility import OFFLINE
from pipeline.hardware import gpu_turn
from pipeline.hardware.probe import Hardware, probe
from pipeline.hardware.rules import LOCKED, Vllm
from pipeline.job import Job, module_of
from pipeline.models import existing, preflight
from pipeline.models.loading import release_memory
from pipeline.models.shapes import with_group_size
from pipeline.models.source import ModelSource
from pipeline.progress import Progress
from pipeline.results.text import by_reason
from pipeline.serve import capabilities
from pipeline.serve.kv_capacity import check_context
from pipeline.serve.support import with_candidates
from pipeline.stages import publish, report
from pipeline.stages.calibrate import memory
from pipeline.stages.quantize import check_engine

if TYPE_CHECKING:
    from pipeline.plan import Plan, Step

# Stages that a study with a budget makes in parts.
DIVIDED = (Stage.BENCH, Stage.EVAL)
# Commands that read the results of all variants.
REPORTING = {Command.REPORT, Command.GATE}


class LanePlace(NamedTuple):
    """The part of a machine that a lane has, and the whole machine."""

    place: Hardware
    machine: Hardware


class StepName(NamedTuple):
    """A step by names, which mean the same in every process of a run."""

    variant: str
    protocol: str
    block: int
    stage: Stage


class LaneOutcome(NamedTuple):
    """Failures of a lane so far, by variant."""

    failures: dict[str, PipelineError]
    not_applicable: dict[str, str]
    failed_stages: dict[str, set[Stage]]


class Runner:
    """Runs the stages that one command requests, over one or several variants."""

    def __init__(self, variants: list[Settings], overrides: list[str], lane: LanePlace | None = None) -> None:
        """Check every variant against its model before anything is made.

        Args:
            variants: their settings, under each protocol.
            overrides: what was given on the command line.
            lane: where this process is one of several of a run; None in the process of the command.

        Raises:
            PipelineError: if a variant cannot work.
        """
        from pipeline.hardware.installed import packages
        from pipeline.serve.server import Serving

        self.variants, first = variants, variants[0]
        self.requested = first.stage
        self.dry_run = first.dry_run
        self.progress = Progress(lane=lane.place.name_of_gpus if lane else "")
        self.workspace = Workspace(first.outputs, hashes=first.verify == "full")
        self.machine = hardware = lane.machine if lane else probe(first.hardware.device)
        self.gpu = first.hardware.gpu
        self.vllm = Vllm.of(packages(first.serve.python))
        digests = Digests(self.workspace.cache / "digests.json")
        model = ModelSource(first.model, self.workspace.cache, digests)
        self.serving = Serving(hardware, first.outputs / "logs", self.progress)
        self.jobs = [
            Job(s, self.workspace, part, digests, model, self.progress, self.serving, overrides, existing=theirs)
            for s, theirs in existing.resolve([self._settled(each, model, hardware) for each in variants], model)
            for part in [lane.place if lane and len(lane.place.gpus) == s.serve.gpus else self._places(s)[0]]
        ]
        for job in self.jobs:
            preflight.check(model, job.settings, set(job.closure(self.requested)))
        self.failures: dict[str, PipelineError] = {}
        self.failed_stages: defaultdict[str, set[Stage]] = defaultdict(set)
        if Command.PUBLISH in self.requested:
            publish.check(variants)
        if REPORTING & set(self.requested):
            report.check(first)
        self.not_applicable: dict[str, str] = {}
        # Those without a benchmark, which no score needs.
        self.untimed: set[str] = set()
        feasibility.judge(self.jobs, self.requested, hardware, self.gpu, self.vllm)
        _set_references([job for job in self.jobs if not (job.unmade or job.unserved)])
        self._check_due(hardware)

    def _places(self, settings: Settings) -> tuple[Hardware, ...]:
        """Return the parts of this machine that serve a variant at the same time.

        With a budget what is measured next follows from what was, one after another.
        """
        return self.machine.lanes(settings.serve.gpus, 1 if settings.has_budget else settings.hardware.lanes)

    def _settled(self, settings: Settings, model: ModelSource, here: Hardware) -> Settings:
        """Return the settings of a variant with what follows from the model, and from the machine that serves it."""
        machine, vllm = (self.gpu, LOCKED) if self.gpu else (here, self.vllm)
        return with_candidates(model, with_group_size(model, settings), machine, vllm)

    def _check_due(self, hardware: Hardware) -> None:
        """Check the settings of steps that would run, where a stage itself would refuse them only after others."""
        from pipeline.stages.bench import attached
        from pipeline.stages.bench.prompts import check_conversations
        from pipeline.stages.quantize.mixed.gain import target
        from pipeline.tasks import preflight as tasks

        is_scored, protocols = False, dict[str, BenchSettings]()
        for job in self.jobs:
            if job.unmade:
                continue
            for stage in job.closure(self.requested):
                if self.workspace.why(job.artifact(stage)) is None:
                    continue
                if stage is Stage.QUANTIZE:
                    check_engine(job.settings.quant)
                    if job.settings.quant.gain_percent is not None:
                        target(job.settings, hardware)
                elif stage not in OFFLINE and not job.unserved:
                    check_context(job.settings, job.model, hardware)
                    if stage is Stage.BENCH:
                        attached.check(job)
                        protocols[job.settings.bench.name] = job.settings.bench
                    is_scored |= stage is Stage.EVAL
        # All variants are asked the same.
        for protocol in protocols.values():
            check_conversations(protocol)
        if is_scored:
            tasks.check(self.jobs[0].settings.eval)

    @property
    def leaves_something(self) -> bool:
        """True if files are made: of a plan or of what a machine serves there are none."""
        return not self.dry_run and set(self.requested) != {Command.CAPABILITIES}

    def plan(self) -> int:
        """Print the plan, and each step with run or skip and the reason; return the exit code."""
        self._warn()
        plan = self._planned()
        self._describe(plan)
        for line in plan.decisions(self._decision):
            self.progress.say(escape(f"  {line}"))
        if Command.PUBLISH in self.requested:
            for name, place in publish.destinations(job.settings for job in self.jobs):
                self.progress.say(escape(f"  {f'publish {name}':<32} {place}"))
        if self._is_divided:
            self.progress.say("  Further blocks and items follow from these results, within the budget.")
        if plan.conclusion:
            self.progress.say(escape(plan.conclusion))
        return 0

    def plan_in_a_line(self, number: int) -> int:
        """Print a job of a sweep: its overrides, and the number of its steps; return the exit code."""
        plan = self._planned()
        self.progress.say(escape(f"job {number}: {' '.join(self.jobs[0].overrides)}: {plan.count}"))
        return 0

    def _planned(self) -> Plan:
        from pipeline.plan import Plan, Step

        steps = [
            Step(job, stage, None if self._why_no_result(job, stage) else self.workspace.why(job.artifact(stage)))
            for job, stage in self._steps(rounds=1)
        ]
        number = {job.variant.gpus: len(self._places(job.settings)) for job in self.jobs} if self._has_lanes else {}
        return Plan(self.jobs, steps, self.vllm, self.machine, number)

    def _describe(self, plan: Plan) -> None:
        for title, text in plan.lines():
            self.progress.say(f"[bold]{title:<11}[/] {escape(text)}")

    def _decision(self, step: Step) -> str:
        """Return run, skip or n/a, and the peak memory where headers tell; reasons of n/a open the plan."""
        job, stage = step.job, step.stage
        if self._why_no_result(job, stage):
            return "n/a"
        if step.why is None:
            return "skip: up to date"
        more = memory.said(job) if stage is Stage.CALIBRATE else ""
        if job.unserved and stage not in OFFLINE:
            more = "by the files alone"
        return f"run: {step.why}{f'; {more}' if more else ''}"

    def execute(self) -> int:
        """Run every step that is due; return the exit code."""
        hardware = self.jobs[0].hardware
        waiting_threads.settle()
        self._warn()
        if Command.CAPABILITIES in self.requested:
            capabilities.show(hardware, self.vllm, self.gpu, self.progress.console)
            if len(self.requested) == 1:
                return 0
        plan = self._planned()
        self._describe(plan)
        plan.check_disk()
        self._sweep()
        self._take_turn()
        self._import_vllm(plan.due)
        if self._has_lanes:
            self._perform((job, stage) for job, stage in self._steps() if stage in OFFLINE)
            self._divide()
        else:
            self._perform(self._steps())
        if REPORTING & set(self.requested):
            self.progress.say("")
            self.failures |= report.make(self.jobs, self.failures)
        if Command.PUBLISH in self.requested:
            self.failures |= publish.make(self.jobs, self.failures)
        return self._conclude()

    def _perform(self, steps: Iterable[tuple[Job, Stage]]) -> None:
        """Do steps in this process, one after another."""
        block = None
        try:
            for job, stage in steps:
                if block is not None and job.block != block:
                    # A block has a start of its own for each server, even for one that is still running.
                    self.serving.stop()
                block = job.block
                if not self._is_prevented(job, stage):
                    self._do(job, stage)
        finally:
            self.serving.stop()

    @property
    def _has_lanes(self) -> bool:
        """True if servers are started in processes with GPUs of their own, since this one sees several."""
        first = self.jobs[0].settings
        return len(self.machine.gpus) > 1 and first.serve.url is None and not self._is_divided

    def _divide(self) -> None:
        """Do the served steps in lanes, first of the variants on as many GPUs as BF16, whose answers the gate takes."""
        by_gpus: dict[int, list[Job]] = {}

        def rank(job: Job) -> tuple[bool, bool, int]:
            return bool(job.unserved), not job.settings.is_baseline, job.variant.gpus

        for job in sorted(self.jobs, key=rank):
            by_gpus.setdefault(job.variant.gpus, []).append(job)
        for jobs in by_gpus.values():
            places = self._places(jobs[0].settings)
            queues = [[unit for unit in queue if self._due_in(unit)] for queue in schedule.queues(jobs, len(places))]
            if any(queues):
                self._run_lanes(places, queues)

    def _due_in(self, unit: schedule.Unit) -> list[StepName]:
        """Return the steps of a unit that would run, by names that a lane has too."""
        return [
            StepName(str(job.variant), job.settings.bench.name, job.block, stage)
            for job, stage in unit.steps
            if stage in self._wanted(job)
            and not self._is_prevented(job, stage)
            and self.workspace.why(job.artifact(stage), self._why_no_result(job, stage)) is not None
        ]

    def _run_lanes(self, places: Sequence[Hardware], queues: list[list[schedule.Unit]]) -> None:
        """Let each lane do the units of its queue; no variant is in two lanes at once."""
        at_work: dict[lanes.Lane[Sequence[StepName], LaneOutcome], schedule.Unit] = {}
        made = partial(_worker, self.variants, self.jobs[0].overrides, self.machine)
        with lanes.opened(places, made) as opened:
            while any(queues) or at_work:
                for lane, queue in zip(opened, queues, strict=True):
                    if lane in at_work or (unit := self._next(queue, at_work.values(), queues)) is None:
                        continue
                    queue.remove(unit)
                    if due := self._due_in(unit):
                        at_work[lane] = unit
                        lane.begin(due)
                for lane in lanes.ready(opened) if at_work else ():
                    outcome = lane.finish()
                    del at_work[lane]
                    self.failures |= outcome.failures
                    self.not_applicable |= outcome.not_applicable
                    for variant, stages in outcome.failed_stages.items():
                        self.failed_stages[variant] |= stages

    @staticmethod
    def _next(
        queue: Sequence[schedule.Unit], at_work: Collection[schedule.Unit], queues: Sequence[Sequence[schedule.Unit]]
    ) -> schedule.Unit | None:
        """Return the first unit of a queue that can begin now; None if all wait for another lane."""
        unfinished = [*at_work, *chain.from_iterable(queues)]
        busy = {unit.start.variant for unit in at_work}
        return next(
            (
                unit
                for unit in queue
                if unit.start.variant not in busy and not any(unit.waits_for(other) for other in unfinished)
            ),
            None,
        )

    def do(self, names: Sequence[StepName]) -> LaneOutcome:
        """Do the steps of these names, as a lane; return what failed so far."""
        by_name = {(str(job.variant), job.settings.bench.name): job for job in self.jobs}
        self._perform((by_name[each.variant, each.protocol].in_block(each.block), each.stage) for each in names)
        return LaneOutcome(dict(self.failures), dict(self.not_applicable), dict(self.failed_stages))

    def _take_turn(self) -> None:
        """Wait for the GPUs that others use, or refuse them, if a step is due that computes on them.

        Raises:
            InputError: if one is still in use after `hardware.wait_minutes`.
        """
        settings = self.jobs[0].settings
        due = [job for job in self.jobs if any(self.workspace.why(job.artifact(each)) for each in self._wanted(job))]
        served = [job for job in due if job.settings.serve.url is None]
        places = [
            place for job in served for place in (self._places(job.settings) if self._has_lanes else (job.hardware,))
        ]
        used = {gpu for place in places for gpu in place.gpus.values()}
        for gpu in sorted(used):
            gpu_turn.take(gpu, settings.hardware.wait_minutes, self.progress.say)

    def _import_vllm(self, due: Sequence[Step]) -> None:
        """Import vLLM before the work that what it serves would take, if both are due.

        Raises:
            ServerError: if it cannot be imported.
        """
        served = [step.job for step in due if step.stage in schedule.SERVED]
        if served and any(step.stage in OFFLINE for step in due):
            with self.progress.step("import vLLM"):
                self.serving.prepare(served[0].settings.serve)

    def _warn(self) -> None:
        for sentence in unapplied(self.jobs[0].overrides, [job.settings for job in self.jobs]):
            self.progress.say(f"[yellow]{escape(sentence)}[/]")
        if self.vllm.warning and not self.gpu:
            self.progress.say(f"[yellow]{escape(self.vllm.warning)}[/]")
        model = self.jobs[0].model
        if note := model.note:
            self.progress.say(f"[yellow]{escape(f'{model.settings.source}: {note}.')}[/]")

    def _steps(self, rounds: int | None = None) -> Iterator[tuple[Job, Stage]]:
        """Yield the steps in order, each artifact once; of a study with a budget at most so many rounds."""
        yielded = set()
        divided = chain(self._screens(), self._rounds(rounds))
        for job, stage in divided if self._is_divided else schedule.in_order(self.jobs):
            if stage in self._wanted(job):
                folder = job.artifact(stage).folder
                if folder not in yielded:
                    yielded.add(folder)
                    yield job, stage

    @property
    def _is_divided(self) -> bool:
        """True if benchmarks and evaluations are requested and have a budget."""
        return self.jobs[0].settings.has_budget and set(DIVIDED) <= set(self.requested)

    def _screens(self) -> Iterator[tuple[Job, Stage]]:
        """Yield the offline stages of all variants, then each variant's gate and screen, which share a server."""
        yield from ((job, stage) for stage in OFFLINE for job in self.jobs)
        for job in sorted(self.jobs, key=lambda job: not job.settings.is_baseline):
            for stage in schedule.SERVED:
                yield (job.screen if stage in DIVIDED else job), stage

    def _rounds(self, limit: int | None) -> Iterator[tuple[Job, Stage]]:
        """Yield the measurements of each round, which follow from the results of those before."""
        from pipeline.stages.report.collect.budgeted_study import BudgetedStudy

        made: set[Path] = set()
        for _ in count() if limit is None else range(limit):
            absent = (str(job.variant) for job in self.jobs if job.unmade or job.unserved)
            stopped = {*self.failures, *self.not_applicable, *self.untimed, *absent}
            due = BudgetedStudy(self.jobs, stopped).due()
            folders = {job.artifact(stage).folder for job, stage in due}
            # A measurement without a result would be due again.
            if folders <= made:
                return
            made |= folders
            yield from due

    def _is_prevented(self, job: Job, stage: Stage) -> bool:
        """Return whether an earlier failure prevents a step: of blocks beside others, only that of a stage it needs."""
        name = str(job.variant)
        failed = self.failed_stages[name]
        if job.block or (self._has_lanes and stage is Stage.BENCH):
            failed = failed & set(job.closure((stage,))) - {stage}
        return name in self.not_applicable or bool(failed) or (stage is Stage.BENCH and name in self.untimed)

    def _wanted(self, job: Job) -> set[Stage]:
        """Return the requested stages and their inputs, without those needed only for what cannot be made or served."""
        wanted = set(job.closure(self.requested))
        if job.unserved:
            asked = tuple(stage for stage in self.requested if stage in (*OFFLINE, Stage.VERIFY))
            wanted -= set(OFFLINE) - set(job.closure(asked))
        return wanted - {Stage.CALIBRATE} if job.unmade else wanted

    def _why_no_result(self, job: Job, stage: Stage) -> str:
        """Return why a step has no result: the variant cannot be made, served or benchmarked here; empty if it may."""
        if stage is Stage.CALIBRATE:
            return ""
        # The gate judges files without a server.
        is_offline = stage is Stage.QUANTIZE or (stage is Stage.VERIFY and Stage.QUANTIZE in self._wanted(job))
        untimed = job.untimed if stage is Stage.BENCH else ""
        return job.unmade or ("" if is_offline else job.unserved or untimed)

    def _sweep(self) -> None:
        """Remove what killed runs left in the making, and say so: memory may run out again."""
        for name in self.workspace.sweep(self.jobs[0].settings.model.name):
            self.progress.say(escape(f"  {name}: an earlier run was ended by force while making it; it starts anew"))

    def _do(self, job: Job, stage: Stage) -> None:
        """Run a step unless its artifact is up to date; record a failure for every variant that it affects.

        Raises:
            StorageError: if `outputs` cannot be written, which no other variant would mend.
        """
        interruption.check()
        artifact = job.artifact(stage)
        if self.workspace.why(artifact, self._why_no_result(job, stage)) is None:
            return
        try:
            with self.workspace.claim(artifact, partial(self._say_waiting, artifact)) as why:
                if why is None:
                    self.progress.say(escape(f"  {artifact.name:<32} made by another run"))
                else:
                    self._make(job, stage, why)
        except NotApplicable as reason:
            if stage is Stage.BENCH:
                self.untimed.add(str(job.variant))
                return
            self.not_applicable |= dict.fromkeys(self._affected(job, stage), str(reason))
        except StorageError:
            raise
        except PipelineError as error:
            self._note_failure(job, stage, error)
            _free(error)
        # A defect, or an error of a library that nobody expected: it is no reason to lose the other variants' night.
        except Exception as error:
            interruption.check_after_failure()
            self.progress.say(escape(traceback.format_exc()))
            said = f"{artifact.name}: {type(error).__name__}: {error}".rstrip(": .")
            self._note_failure(job, stage, StageError(f"{said}.", "This is a defect; its traceback is above."))
            _free(error)

    def _note_failure(self, job: Job, stage: Stage, error: PipelineError) -> None:
        for variant in self._affected(job, stage):
            self.failures[variant] = error
            self.failed_stages[variant].add(stage)
        name = job.artifact(stage).name
        self.progress.say(f"  [red]{escape(name)} failed:[/] {escape(error.problem)}")

    def _say_waiting(self, artifact: Artifact, holder: str) -> None:
        self.progress.say(escape(f"  {artifact.name:<32} waiting: {holder} is making it"))

    def _make(self, job: Job, stage: Stage, why: str) -> None:
        artifact = job.artifact(stage)
        if "->" in why:
            self.progress.say(escape(f"  {artifact.name}: redo, {why}"))
        context = provenance.context(job.settings, job.hardware, job.overrides)
        with (
            kill_notice.during(artifact.name, artifact.stage),
            self.progress.step(artifact.name),
            self.workspace.making(artifact, context) as draft,
        ):
            if reason := self._why_no_result(job, stage):
                raise NotApplicable(reason)
            module_of(stage).make(job, draft)

    def _affected(self, job: Job, stage: Stage) -> list[str]:
        """Return the variants that need this artifact: several if it is shared."""
        if stage in schedule.SERVED:
            return [str(job.variant)]
        folder = job.artifact(stage).folder
        dependents = [other for other in self.jobs if stage in other.closure(self.requested)]
        return [str(other.variant) for other in dependents if other.artifact(stage).folder == folder]

    def _conclude(self) -> int:
        for reason, names in by_reason(self.not_applicable.items()).items():
            self.progress.say(f"[yellow]{', '.join(names)}: n/a[/] {escape(reason)}")
        for error, names in by_reason((name, str(error)) for name, error in self.failures.items()).items():
            self.progress.say(f"[red]{', '.join(names)} failed:[/] {escape(error)}")
        return max((error.exit_code for error in self.failures.values()), default=0)


def _worker(
    variants: list[Settings], overrides: list[str], machine: Hardware, place: Hardware
) -> Callable[[Sequence[StepName]], LaneOutcome]:
    """Return what does the steps in a lane."""
    waiting_threads.settle()
    return Runner(variants, overrides, LanePlace(place, machine)).do


def _free(error: BaseException) -> None:
    """Release the memory that a failed step still holds: its local variables, by the traceback of its error."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    release_memory()


def _set_references(jobs: Sequence[Job]) -> None:
    """Let all ladders derive from the benchmark of BF16 under the same protocol, if it is among the variants.

    Of BF16 on different numbers of GPUs it is that on the fewest.
    """
    unchanged = sorted((job for job in jobs if job.settings.is_baseline), key=lambda job: -job.variant.gpus)
    baselines = {job.settings.bench.name: job for job in unchanged}
    for job in jobs:
        reference = baselines.get(job.settings.bench.name)
        job.reference = None if reference is job else reference
