"""A protocol from start to end: warm-up, every load with its repeats, the search for the highest good rate.

The loads of a ladder derive from BF16's throughput for every variant (`Job.reference`), so that all are sent the same.

If the server exits midway, it is restarted once and the protocol begun anew; the failure stays in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypedDict

from rich.markup import escape

from pipeline.artifacts.workspace import Draft
from pipeline.config import BenchSettings
from pipeline.config.file_names import file_name
from pipeline.errors import InputError, NotApplicable, ServerError
from pipeline.hardware.rules import NO_SPEED
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.bench import BenchResult, Conditions, Goodput, Guard, LoadResult, Memory, Probe
from pipeline.results.server import ServerFacts
from pipeline.serve.external import told
from pipeline.stages.bench import goodput, guards, ladder, memory_bandwidth, plan, steady, trends
from pipeline.stages.bench.client import Client, Run
from pipeline.stages.bench.memory import memory
from pipeline.stages.bench.metrics import figures_of
from pipeline.stages.bench.monitor import Watch
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.prompts import check_lengths, prepare
from pipeline.tasks.conversations import local_file

if TYPE_CHECKING:
    from pipeline.job import Job

ATTEMPTS = 2


def bench(job: Job, draft: Draft) -> None:
    """Write `loads/<load>/repeat-<i>.{json,npz}`, and all figures into the manifest.

    Raises:
        InputError: when there are too few prompts, or they do not fit into the model's context.
        StageError: when the loads derive from a benchmark that is not there.
        ServerError: when two servers in a row ended early or hung, or no request succeeded.
    """
    settings = job.settings.bench
    reference = ladder.reference_of(job)
    # Beside the results, where the next attempt finds and removes what a killed one left.
    with TemporaryDirectory(prefix=".scratch-", dir=draft.folder) as scratch:
        prompts = _prompts(job, Path(scratch))
        job.progress.detail("measuring the memory bandwidth")
        read = None if job.settings.serve.url else memory_bandwidth.measured(job.hardware.device)
        failures: list[str] = []
        # A server that the user runs cannot be restarted from here.
        attempts = 1 if job.settings.serve.url else ATTEMPTS
        for attempt in range(1, attempts + 1):
            protocol = Protocol(job, draft.folder, settings, prompts, Path(scratch), reference)
            try:
                protocol.run()
                break
            except ServerError as error:
                failures.append(str(error))
                draft.results = protocol.results(failures)
                job.serving.stop()
                if attempt == attempts:
                    raise
                said = f"  bench {job.variant}: {error.problem.splitlines()[0]} Trying a fresh server."
                job.progress.say(escape(said))
    draft.results = protocol.results(failures).model_copy(update={"memory_bandwidth": read})


class Found(TypedDict, total=False):
    """Partial results of an attempt; a failed one lacks some."""

    warm_up: tuple[float, ...]
    goodput: Goodput
    server: ServerFacts
    memory: Memory


@dataclass
class Protocol:
    """One attempt at all loads, on one server."""

    job: Job
    folder: Path
    settings: BenchSettings
    prompts: Path | None
    scratch: Path
    reference: BenchResult | None = None
    loads: list[LoadResult] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    found: Found = field(default_factory=lambda: Found())
    # Of each load, and rounds of warm-up at most.
    repeats: int = field(init=False)
    rounds: int = field(init=False)

    def __post_init__(self) -> None:
        self.repeats, self.rounds = self.settings.repeats, self.settings.warmup_rounds

    def run(self) -> None:
        """Send all loads."""
        self.job.progress.detail("starting the server")
        server = self.job.target()
        logs = self.job.serving.logs / "clients" / file_name(str(self.job.variant))
        trust = self.job.settings.model.trust_remote_code
        self.client = Client(self.job.serving, server, self.settings, self.prompts, self.scratch, logs, trust)
        self.client.logs.mkdir(parents=True, exist_ok=True)
        if server.facts().emulated:
            # A checkpoint of others, whose format no table has.
            raise NotApplicable(NO_SPEED)
        self._warm_up()
        if self.settings.ladder is None:
            self._measure(plan.single(self.settings))
        else:
            self._climb(self.settings.ladder.budget_s)
        self.guards.append(trends.repeats(self.loads))
        if self.settings.slo.limits and self.settings.slo.probes:
            self._search()
        if change := server.change():
            self.guards.append(Guard(name="same server", passed=False, text=change, load=None))
        self.found["server"] = server.facts()
        self.found["memory"] = memory(self.job, server, self._conditions())

    def results(self, failures: Sequence[str]) -> BenchResult:
        """Return the result so far, with these server failures."""
        measured = [load for load in self.loads if not load.name.startswith("probe")]
        unlimited = (load for load in reversed(measured) if load.request_rate == "inf")
        headline = next(unlimited, measured[-1] if measured else None)
        return BenchResult(
            protocol=self.settings.name,
            temperature=self.settings.temperature,
            block=self.job.block,
            # The device of a server that the user runs is unknown.
            device="" if self.job.settings.serve.url else self.job.hardware.device_id,
            headline=headline.name if headline else None,
            asked=headline.asked if headline else 0,
            completed=headline.completed if headline else 0,
            failed=headline.failed if headline else 0,
            output_tokens=headline.output_tokens if headline else (),
            metrics=headline.metrics if headline else {},
            loads=tuple(self.loads),
            left_out=tuple(self.left_out),
            guards=tuple(self.guards),
            failures=tuple(failures),
            **self.found,
        )

    def _warm_up(self) -> None:
        load, rounds = plan.warmup(self.settings), list[float]()
        for number in range(self.rounds if load.num_prompts else 0):
            if trends.is_steady(rounds, self.settings.warmup_tolerance):
                break
            self.job.progress.detail(f"warming up, round {number + 1} of at most {self.rounds}")
            run = self.client.send(load, self.settings.seed + plan.WARMUP_SEED + number)
            rounds.append(float(run.summary["total_token_throughput"]))
        self.found["warm_up"] = tuple(rounds)
        self.guards.append(trends.warm_up(rounds, self.settings.warmup_tolerance, load.num_prompts))

    def _climb(self, budget_s: float | None) -> None:
        """Run the ladder: levels of concurrency, then rates as shares of the throughput reached."""
        started, took = time.monotonic(), 0.0

        def climb(loads: Callable[[], Iterable[Load]], sized: Callable[[Load], Load]) -> None:
            nonlocal took
            for load in loads():
                # A level takes about as long as the one before it; a rate takes at least requests / rate.
                ahead = max(took, self.repeats * _least_s(load))
                if budget_s is not None and self.loads and time.monotonic() - started + ahead > budget_s:
                    self.left_out.append(load.name)
                    continue
                began = time.monotonic()
                self._measure(sized(load))
                took = time.monotonic() - began

        climb(lambda: plan.levels(self.settings), self._level)
        climb(self._rates, self._rate)
        if self.left_out:
            text = f"left out for bench.ladder.budget_s={budget_s:g}: {', '.join(self.left_out)}"
            self.guards.append(Guard(name="budget", passed=None, text=text, load=None))

    def _level(self, level: Load) -> Load:
        """Send the pilot of a level; return the level with the reference's number of requests, or that of the pilot."""
        assert self.settings.ladder is not None
        self.job.progress.detail(f"{level.name}, pilot")
        run = self.client.send(plan.pilot(level), level.seed(self.settings, 0) + plan.PILOT_SEED)
        if known := self.reference and self.reference.load(level.name):
            return level.model_copy(update={"num_prompts": known.num_prompts})
        latency_s = float(run.requests.latency[run.requests.good].mean())
        return plan.lasting(level, self.settings.ladder.level_s, latency_s)

    def _rates(self) -> Iterable[Load]:
        source = self.job.reference or self.job
        loads = self.reference.loads if self.reference else self.loads
        return plan.rates(self.settings, ladder.saturation(loads), own=not source.settings.is_baseline)

    def _rate(self, load: Load) -> Load:
        """Return a rate with its duration: the level that reaches it says how long an answer takes."""
        assert self.settings.ladder is not None and load.request_rate != "inf"
        loads = self.reference.loads if self.reference else self.loads
        cut_s = ladder.answer_s(loads, load.request_rate)
        sized = plan.open_for(load, self.settings.ladder.level_s + 2 * cut_s, cut_s)
        known = self.reference and self.reference.load(load.name)
        return sized.model_copy(update={"num_prompts": known.num_prompts}) if known else sized

    def _search(self) -> None:
        """Search the highest rate that meets the SLO."""
        slo, probes = self.settings.slo, list[Probe]()

        def probe(rate: float, seconds: float) -> goodput.Observation:
            load = plan.probe(self.settings, rate, seconds, len(probes))
            (run,) = self._measure(load, repeats=1)
            part = steady.steady(load, run.requests)
            observed = goodput.observe(part, load, slo.limits, slo.percentile)
            # JSON has no infinity: a percentile among failed requests is null.
            seen = {name: value if value != float("inf") else None for name, value in observed.seen.items()}
            probes.append(
                Probe(
                    rate=rate,
                    load=load.name,
                    percentile=slo.percentile,
                    met=observed.met,
                    seen=seen,
                    completed=observed.completed,
                    requests=observed.requests,
                    in_flight=observed.in_flight,
                    seconds=seconds,
                )
            )
            return observed

        bracket = goodput.search(probe, ladder.saturation(self.loads) / 2, slo)
        counted = [
            probe.model_copy(update={"counts": trial.counts})
            for probe, trial in zip(probes, bracket.trials, strict=True)
        ]
        ends = bracket.model_dump(exclude={"trials"})
        self.found["goodput"] = Goodput(slo=slo.limits, probes=tuple(counted), **ends)

    def _measure(self, load: Load, repeats: int | None = None) -> list[Run]:
        """Send a load with all of its repeats and record the results."""
        number, runs, conditions = repeats or self.repeats, list[Run](), list[Conditions]()
        seeds = [load.seed(self.settings, self.job.block * number + index) for index in range(number)]
        for index, seed in enumerate(seeds):
            self.job.progress.detail(f"{load.name}, repeat {index + 1} of {number}")
            server = self.client.server
            gpus = tuple(self.job.hardware.gpus)
            watched = Watch(server.url, server.pid, gpus, lambda: self.job.serving.client_pid, server.key_variable)
            with watched as watch:
                run = self.client.send(load, seed)
                watch.requests = run.requests
            run.save(self.folder / "loads" / load.slug, f"repeat-{index}")
            runs.append(run)
            conditions.append(watch.conditions)
        asked = load.num_prompts * number
        failed = sum(int((~run.requests.good).sum()) for run in runs)
        parts = [steady.steady(load, run.requests) for run in runs]
        measured = [part.run(run) for part, run in zip(parts, runs, strict=True)] if load.is_cut else runs
        self.guards += guards.check(load.name, conditions, failed, asked)
        self.guards += self._load_guards(load, runs, parts)
        self.loads.append(
            LoadResult(
                name=load.name,
                num_prompts=load.num_prompts,
                request_rate=load.request_rate,
                max_concurrency=load.max_concurrency,
                seeds=tuple(seeds),
                asked=asked,
                completed=sum(int(run.summary["completed"]) for run in runs),
                failed=failed,
                input_tokens=tuple(int(run.summary["total_input_tokens"]) for run in runs),
                output_tokens=tuple(int(run.summary["total_output_tokens"]) for run in runs),
                metrics=figures_of(measured, self.settings.slo.limits),
                conditions=tuple(conditions),
                analysed=tuple(len(run.requests.start) for run in measured),
                in_flight=tuple(round(part.in_flight, 3) for part in parts),
            )
        )
        return runs

    def _load_guards(self, load: Load, runs: Sequence[Run], parts: Sequence[steady.Steady]) -> list[Guard]:
        """Return the guards of the load itself; a probe that does not complete its rate is a result, not a fault."""
        found = [] if load.name.startswith("probe") else steady.guards(load, parts)
        if any(run.repeats_prompts for run in runs):
            text = f"{load.num_prompts} requests are more than the data set has prompts: some were sent more than once"
            # The pipeline starts its servers without a prefix cache, so a repeated prompt costs as much.
            passed = False if self.job.settings.serve.url else None
            found.append(Guard(name="distinct prompts", passed=passed, text=text, load=load.name))
        if self.settings.output_len is not None:
            lengths = [run.requests.output_lens[run.requests.good] for run in runs]
            found.append(guards.reply_length(load.name, lengths, self.settings.output_len))
        return found

    def _conditions(self) -> list[Conditions]:
        return [each for load in self.loads for each in load.conditions]


def _least_s(load: Load) -> float:
    """Return the minimum seconds that one repeat of a load takes, by its rate."""
    return 0.0 if load.request_rate == "inf" else load.num_prompts / load.request_rate


def _prompts(job: Job, scratch: Path) -> Path | None:
    """Return the file of prompts, checked before a server is started; None for random prompts."""
    settings = job.settings.bench
    context = _context(job)
    if settings.prompts == "random":
        check_lengths(settings, context)
        return None
    job.progress.detail("reading the prompts")
    source = local_file(settings.dataset, "bench.dataset")
    tokenizer = CheckpointTokenizer(job.tokenizer, trust_remote_code=job.settings.model.trust_remote_code)
    return prepare(settings, source, scratch, tokenizer, context)


def _context(job: Job) -> int | None:
    """Return the context length in tokens, as the server reports it, or by the setting and the model."""
    if job.settings.serve.url:
        return told(job.settings.serve).context
    return job.model.context(job.settings.serve.max_model_len)


class CheckpointTokenizer:
    """Tokenizer of a checkpoint; without transformers if there is a tokenizer.json."""

    def __init__(self, folder: Path, *, trust_remote_code: bool = False) -> None:
        """Read the tokenizer of `folder`.

        Raises:
            InputError: if it cannot be read.
        """
        import tokenizers

        path = folder / "tokenizer.json"
        self._encode: Callable[[str], Any]
        if path.is_file():
            try:
                fast = tokenizers.Tokenizer.from_file(str(path))
            # The library has no class of errors of its own.
            except Exception as error:
                raise InputError(f"{path} is no tokenizer ({error}).", "Fetch the file again.") from None
            # The file may ask for padding or cutting, which the client does not.
            fast.no_padding()
            fast.no_truncation()
            self._encode = lambda text: fast.encode(text).ids
        else:
            self._encode = load_tokenizer(folder, trust_remote_code=trust_remote_code).encode

    def encode(self, text: str) -> Any:
        """Return the tokens of a text, whole."""
        return self._encode(text)
