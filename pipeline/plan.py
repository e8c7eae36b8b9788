"""The plan of a run: what it would make, on what, and what it would take, said before anything is made."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.shortages import free_bytes
from pipeline.compare.roofline.device import limits_of
from pipeline.compare.roofline.memory_fit import required_bytes
from pipeline.compare.statements import count
from pipeline.config import BenchSettings, Command, DatasetSettings, Settings, Stage
from pipeline.config.compose import BF16
from pipeline.errors import InputError
from pipeline.feasibility import footprint_of
from pipeline.hardware.probe import Hardware, nvidia_smi
from pipeline.hardware.rules import Vllm
from pipeline.job import Job
from pipeline.models.source import ModelSource
from pipeline.results.base import Missing
from pipeline.results.text import among, by_reason
from pipeline.stages.report.collect.footprints import settings_of
from pipeline.stages.report.number_format import size_unit

GIB, GB = 2**30, 1e9
REPORT = "index.html"
# Beyond it a step's variants push its decision out of the column.
NAMES_WIDTH = 64


@dataclass(frozen=True)
class Step:
    """One artifact of the run; `why` is the reason to make it, None if it is up to date or n/a."""

    job: Job
    stage: Stage
    why: str | None


@dataclass(frozen=True)
class Plan:
    """The steps of a run, in order."""

    jobs: Sequence[Job]
    steps: Sequence[Step]
    vllm: Vllm
    machine: Hardware
    # Servers at the same time, by their number of GPUs; empty where one process serves all.
    lanes: Mapping[int, int] = field(default_factory=dict)

    @property
    def first(self) -> Settings:
        """Settings that all variants share, besides their formats."""
        return self.jobs[0].settings

    @property
    def due(self) -> list[Step]:
        """The steps that would run."""
        return [step for step in self.steps if step.why is not None]

    @property
    def count(self) -> str:
        """The number of steps, and of those that would run."""
        return f"{len(self.steps)} step{'' if len(self.steps) == 1 else 's'}, {len(self.due)} to make"

    @property
    def stages(self) -> set[Stage]:
        """The stages of the steps."""
        return {step.stage for step in self.steps}

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the plan as titles and texts."""
        yield "model", _model(self.jobs[0].model)
        yield "machine", self._machine()
        if self.lanes:
            yield "lanes", self._lanes()
        if Stage.BENCH in self.stages:
            protocols = {job.settings.bench.name: job.settings.bench for job in self.jobs}
            yield "load", "; ".join(_load(bench) for bench in protocols.values())
        if Stage.EVAL in self.stages:
            yield "tasks", self._tasks()
        if Stage.CALIBRATE in self.stages:
            yield "calibration", self._calibration()
        yield "variants", ", ".join(self.variants)
        if groups := self._smaller_groups():
            yield "groups", groups
        yield from self._dropped()
        if self.steps:
            yield "steps", self.count
        if self.due:
            yield "time", self._time()
            if self.first.serve.url is None:
                yield "memory", self._memory()
                if self._checkpoint_bytes():
                    yield "disk", self._disk()
            if missing := list(self._downloads()):
                yield "downloads", ", ".join(missing)
        if Command.REPORT in self.first.stage:
            yield "report", str(self.report)

    @property
    def variants(self) -> dict[str, Job]:
        """A job of each variant, by the variant's name."""
        return {str(job.variant): job for job in self.jobs}

    def decisions(self, decide: Callable[[Step], str]) -> Iterator[str]:
        """Yield the steps as lines, those of one stage that are decided alike in one.

        Args:
            decide: returns run, skip or n/a, with the reason.
        """
        several = len({job.settings.bench.name for job in self.jobs}) > 1
        alike: dict[tuple[str, str], list[str]] = {}
        everything: dict[str, list[str]] = {}
        for step in self.steps:
            artifact = step.job.artifact(step.stage)
            protocol = f" ({step.job.settings.bench.name})" if several and step.stage is Stage.BENCH else ""
            kind = f"{artifact.kind}{protocol}"
            for found in (alike.setdefault((kind, decide(step)), []), everything.setdefault(kind, [])):
                found += [artifact.variant] if artifact.variant else []
        shown = [
            (f"{kind}: {among(names, everything[kind])}" if names else kind, decision)
            for (kind, decision), names in alike.items()
        ]
        width = max((len(name) for name, _ in shown if len(name) <= NAMES_WIDTH), default=0)
        yield from (f"{name:<{width}}  {decision}" for name, decision in shown)

    @property
    def report(self) -> Path:
        """The first file of the report."""
        return self.first.outputs / self.first.model.name / "report" / REPORT

    @property
    def conclusion(self) -> str:
        """The last line where nothing is due; empty where something is."""
        if self.due or not (self.steps or Command.REPORT in self.first.stage):
            return ""
        folders = (step.job.artifact(step.stage).folder for step in self.steps)
        # What is n/a may not have been recorded.
        finished = [folder.stat().st_mtime for folder in folders if folder.exists()]
        if Command.REPORT not in self.first.stage:
            return "nothing would run"
        is_newer = self.report.is_file() and self.report.stat().st_mtime >= max(finished, default=0)
        return f"nothing would run; the report {'is up to date' if is_newer else 'would be written from these results'}"

    def _dropped(self) -> Iterator[tuple[str, str]]:
        """Yield the variants that are left out or not timed, those of one reason together."""
        left = {name: job.unmade or job.unserved for name, job in self.variants.items()}
        untimed = {name: "" if left[name] else job.untimed for name, job in self.variants.items()}
        for title, reasons in (("left out", left), ("not timed", untimed if Stage.BENCH in self.stages else {})):
            for reason, names in by_reason(reasons.items()).items():
                if reason:
                    yield title, f"{among(names, self.variants)}: {reason}"

    def _machine(self) -> str:
        hardware, gpus = self.machine, len(self.machine.gpus)
        name = f"{gpus} x {hardware.name}" if gpus > 1 else hardware.name
        version = "none" if self.vllm.release is None else ".".join(map(str, self.vllm.release))
        return f"{name}, {hardware.cores} cores, {hardware.memory_gib:g} GiB, vLLM {version}"

    def _lanes(self) -> str:
        """Return how many servers run at the same time, on how much of the machine each."""
        parts = {job.variant.gpus: job.hardware for job in self.jobs}
        return "; ".join(
            f"{count(number, 'server')}{' at a time, each' if number > 1 else ''} on {count(gpus, 'GPU')} "
            f"and {count(parts[gpus].cores, 'core')}"
            for gpus, number in sorted(self.lanes.items())
        )

    def _tasks(self) -> str:
        settings = self.first.eval
        items = "all items" if settings.limit is None else f"{settings.limit} items each"
        source = f" from {settings.data_dir}" if settings.data_dir is not None else ""
        text = settings.divergence
        kl = f"; KL divergence on {text.num_sequences} conversations of {_named(text.dataset)}" if text else ""
        return f"{settings.name}: {', '.join(settings.tasks)}, {items}{source}{kl}"

    def _calibration(self) -> str:
        settings = self.first.calibration
        if settings.artifact is not None:
            return f"taken from {settings.artifact}"
        return f"{settings.num_samples} conversations of {', '.join(_named(each) for each in settings.sets.values())}"

    def _smaller_groups(self) -> str:
        """Return the variants whose groups are smaller than their scheme's, by size; empty if there are none."""
        found = []
        for name, job in self.variants.items():
            quant, size = job.settings.quant, job.settings.quant.group_size
            own = quant.format.group if quant.format is not None and not quant.is_existing else None
            if size is not None and own is not None and size < own:
                found.append((name, f"{size} input channels share a scale, instead of {own}"))
        return "; ".join(f"{', '.join(names)}: {said}" for said, names in by_reason(found).items())

    def _time(self) -> str:
        """Return the time by finished steps of the same kind on this machine."""
        job = self.jobs[0]
        known = [each for _, each in job.workspace.manifests(job.settings.model.name)]
        model = job.model.identity()
        # Another model may have had the same name, and thus the same folder.
        others = {each.key for each in known if each.payload.get("model", model) != model}
        own = (each for each in known if not {each.key, each.payload.get("quantize")} & others)
        here = [each for each in own if each.status == "ok" and each.hardware.get("name") == job.hardware.name]
        seconds = [_seconds(step, here) for step in self.due]
        found = [each for each in seconds if each is not None]
        limits = (job.settings.bench.budget_minutes, job.settings.eval.budget_minutes)
        budget = f"; budget {sum(filter(None, limits)):g} min" if any(limits) else ""
        if not found:
            return f"not known: no step like these has run on this machine with outputs={job.workspace.root}{budget}"
        about = f"{_duration(sum(found))} by earlier runs here"
        if len(found) == len(seconds):
            return f"about {about}{budget}"
        return f"about {about} for {len(found)} of {len(seconds)} steps, not known for the others{budget}"

    def _memory(self) -> str:
        """Return what serving the largest variant takes, and what there is."""
        job, needed = self.jobs[0], dict[str, float]()
        for each in self.jobs:
            found, serve = footprint_of(each, each.settings.kv_cache.dtype), each.settings.serve
            if isinstance(found, Missing):
                return f"not known: {found.reason}"
            if job.hardware.device == "cpu":
                # Of each process, which are all on this machine.
                held = found.divided(serve.tensor_parallel).weight_bytes + serve.cpu_kv_cache_gib * GIB
                needed[str(each.variant)] = serve.gpus * held
                continue
            found = found.divided(serve.tensor_parallel)
            limits = limits_of(job.hardware.name, job.hardware.memory_mib or 0, serve.max_num_seqs)
            context = each.model.context(serve.max_model_len) or 0
            needed[str(each.variant)] = required_bytes(found, limits, context, serve.gpu_memory_utilization)
        largest = max(needed, key=lambda name: needed[name])
        counted = "weights and KV cache" if job.hardware.device == "cpu" else "weights, one full context, a step"
        need, free = needed[largest] / GIB, _free_gib(job.hardware.device)
        short = "; it does not fit" if need > free else ""
        each_gpu = (
            " on each GPU" if job.hardware.device == "cuda" and any(j.variant.gpus > 1 for j in self.jobs) else ""
        )
        return f"{largest} needs at least {need:.1f} GiB{each_gpu} ({counted}), {free:.1f} GiB are free{short}"

    def check_disk(self) -> None:
        """Refuse a run whose checkpoints and downloads do not fit on the disk, before the first is made.

        Raises:
            InputError: with the sizes.
        """
        from huggingface_hub.constants import HF_HUB_CACHE

        outputs, hub = self.first.outputs, Path(HF_HUB_CACHE)
        made, fetched = self._checkpoint_bytes(), self._download_bytes()
        needed, free = made + (fetched if _device(outputs) == _device(hub) else 0), free_bytes(outputs)
        if needed > free:
            raise InputError(
                f"outputs={outputs}: the checkpoints to be made{' and downloads' if needed > made else ''} take "
                f"{needed / GB:.3g} GB, and {free / GB:.3g} GB are free.",
                "Free some space, set outputs=<a folder on another disk>, or make fewer variants.",
            )
        if fetched > (free := free_bytes(hub)):
            raise InputError(
                f"HF_HOME: the downloads take {fetched / GB:.3g} GB, and {free / GB:.3g} GB are free in {hub}.",
                "Free some space, or set HF_HOME=<a folder on another disk>.",
            )

    def _disk(self) -> str:
        written, free = self._checkpoint_bytes(), free_bytes(self.first.outputs)
        root = self.first.outputs.resolve()
        place = next(each for each in (root, *root.parents) if each.exists())
        short = "; not enough" if written > free else ""
        unit, scale = size_unit([round(written)])
        return f"checkpoints of {written / scale:.1f} {unit}, {free / GB:.0f} GB are free in {place}{short}"

    def _checkpoint_bytes(self) -> float:
        """Return the size of the checkpoints that would be made, a copy of the model in BF16 among them."""
        reads_model = self.due and self.first.serve.url is None
        written = self._weight_bytes() if reads_model and self._model.lacks_copy else 0.0
        for step in self.due:
            quant = step.job.settings.quant
            # Those of others are links.
            if step.stage is Stage.QUANTIZE and quant.scheme is not None and not quant.is_existing:
                found = footprint_of(step.job)
                written += 0 if isinstance(found, Missing) else found.weight_bytes
        return written

    def _download_bytes(self) -> float:
        """Return the size of the weights that would be fetched from the hub, the model's and those of others."""
        fetched = self._weight_bytes() if self._is_fetched else 0
        for step in self.due:
            theirs = step.job.existing
            if step.stage is Stage.QUANTIZE and theirs is not None and not theirs.is_gguf and _lacks(theirs):
                found = footprint_of(step.job)
                fetched += 0 if isinstance(found, Missing) else found.weight_bytes
        return fetched

    def _weight_bytes(self) -> float:
        """Return the size of the model's weights in BF16; 0 if its config does not tell."""
        found = footprint_of(self.jobs[0], quant=settings_of(BF16.quant))
        return 0 if isinstance(found, Missing) else found.weight_bytes

    @property
    def _model(self) -> ModelSource:
        return self.jobs[0].model

    @property
    def _is_fetched(self) -> bool:
        """True if the model's weights are read, and the hub's cache does not hold them."""
        return bool(self.due) and self.first.serve.url is None and _lacks(self._model)

    def _downloads(self) -> Iterator[str]:
        """Yield what the hub is asked for and its cache does not hold."""
        if self._is_fetched:
            size = self._weight_bytes()
            yield f"{self._model.settings.hub_id}{f' ({size / GB:.1f} GB)' if size else ''}"
        yield from dict.fromkeys(f"data set {each.hub_id}" for each in self._datasets() if not _is_here(each))
        settings = self.first.eval
        if any(step.stage is Stage.EVAL for step in self.due) and not (settings.data_dir or settings.include_path):
            yield "the tasks' data, if they are not in the hub's cache"

    def _datasets(self) -> Iterator[DatasetSettings]:
        due = {step.stage for step in self.due}
        if Stage.CALIBRATE in due and self.first.calibration.artifact is None:
            yield from self.first.calibration.sets.values()
        if Stage.BENCH in due:
            yield from (job.settings.bench.dataset for job in self.jobs if job.settings.bench.prompts == "sharegpt")
        if Stage.EVAL in due and self.first.eval.divergence is not None:
            yield self.first.eval.divergence.dataset


def _model(source: ModelSource) -> str:
    """Return the model's name and source, with the commit that the hub's cache has where none is pinned."""
    kind = " ".join(source.config.get("architectures") or [])
    settings = source.settings
    where = str(settings.path)
    if settings.path is None:
        where = f"{settings.hub_id}{f'@{settings.revision[:8]}' if settings.revision else ''}"
    weights = ", random weights" if source.is_random else ""
    return f"{settings.name} ({where}), {kind}{weights}"


def _load(bench: BenchSettings) -> str:
    asked, pace = f"{bench.num_prompts} requests", f"{bench.request_rate} a second"
    if bench.ladder is not None:
        asked, pace = "requests", f"{', '.join(map(str, bench.ladder.concurrency))} in flight"
    elif bench.max_concurrency is not None:
        pace = f"{bench.max_concurrency} in flight"
    elif bench.request_rate == "inf":
        pace = "all at once"
    texts = _named(bench.dataset) if bench.prompts == "sharegpt" else f"{bench.input_len} random tokens"
    blocks = f", {bench.blocks} starts of each server" if bench.blocks > 1 else ""
    return f"{bench.name}: {asked} of {texts}, {pace}, {count(bench.repeats, 'repeat')}{blocks}"


def _named(dataset: DatasetSettings) -> str:
    return str(dataset.path) if dataset.path is not None else str(dataset.hub_id)


def _seconds(step: Step, finished: Iterable[Manifest]) -> float | None:
    """Return the seconds of earlier steps of the same kind: of this variant if there are any, else the median."""
    artifact = step.job.artifact(step.stage)
    like = _kind(artifact.payload)
    same = [each for each in finished if each.stage == artifact.stage and _kind(each.payload) == like]
    own = [each for each in same if each.variant == artifact.variant]
    return statistics.median(each.seconds for each in own or same) if same else None


def _kind(payload: Payload) -> Any:
    """Return the settings that decide how long a step takes."""
    quant = payload.get("quant") or {}
    load = [payload.get(name) for name in ("bench", "eval", "part", "num_samples", "max_seq_length")]
    return [quant.get("engine"), quant.get("algorithm"), *load]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _free_gib(device: str) -> float:
    if device == "cpu":
        return psutil.virtual_memory().available / GIB
    lines = nvidia_smi("--query-gpu=memory.free")
    return float(lines[0]) / 1024 if lines else 0.0


def _is_here(dataset: DatasetSettings) -> bool:
    """Return whether a data set is a local file, or a file in the hub's cache; of a split that is not known."""
    if dataset.path is not None:
        return True
    return dataset.hub_file is not None and _is_cached(
        str(dataset.hub_id), dataset.hub_file, dataset.revision, "dataset"
    )


def _lacks(source: ModelSource) -> bool:
    """Return whether a source is on the hub, and its weights are not in the hub's cache."""
    settings = source.settings
    if settings.path is not None or source.is_random:
        return False
    return not _is_cached(str(settings.hub_id), source.hub_weights[0], settings.revision, "model")


def _device(path: Path) -> int:
    """Return the file system that a path is on, or would be."""
    return next(each for each in (path.resolve(), *path.resolve().parents) if each.exists()).stat().st_dev


def _is_cached(hub_id: str, file: str, revision: str | None, kind: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(hub_id, file, revision=revision, repo_type=kind), str)
    except ValueError:
        # No repository can have this name, which is refused when it is fetched.
        return False
