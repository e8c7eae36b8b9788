"""The artifacts of a report: for each variant, the manifests of its stages.

A run over several variants shows exactly those. A run of one variant also shows its peers: every variant of the same
model whose benchmark or scores were made under the same settings, so that a baseline of an earlier run is included.
`report.recorded` shows all results of the model in the folder, even those measured on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifacts.keys import Payload
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.workspace import Artifact
from pipeline.config import Stage, Variant, choice
from pipeline.config.existing import title_of
from pipeline.config.quant import EXISTING
from pipeline.config.settings import SERVING
from pipeline.errors import PipelineError
from pipeline.formats.schemes import SCHEMES
from pipeline.job import Job
from pipeline.results.base import Missing, R, Result, read
from pipeline.results.bench import BenchResult
from pipeline.results.calibration import observations_key
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.records import Family
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean, first_line
from pipeline.results.verify import VerifyResult

READ = (Stage.CALIBRATE, Stage.QUANTIZE, Stage.VERIFY, Stage.BENCH, Stage.EVAL)
STAGE_OF: Mapping[type[Result], Stage] = {
    QuantizeResult: Stage.QUANTIZE,
    VerifyResult: Stage.VERIFY,
    BenchResult: Stage.BENCH,
    EvalResult: Stage.EVAL,
}
# A folder with its manifest.
Item = tuple[Path, Manifest]
ManifestIndex = dict[Stage, list[Item]]


@dataclass
class Source:
    """One variant's manifests and their folders."""

    variant: Variant
    label: str
    quant: Payload
    kv_dtype: str
    failure: str = ""
    # Why a study with a budget did not measure it further.
    outcome: str = ""
    # True for BF16 on more GPUs than the baseline's.
    is_further: bool = False
    manifests: dict[Stage, Manifest] = field(default_factory=dict)
    folders: dict[Stage, Path] = field(default_factory=dict)
    # The manifests of the blocks of each requested protocol; the first finished one is also in `manifests`.
    benchmarks: list[list[Manifest]] = field(default_factory=list)

    def add(self, stage: Stage, items: Sequence[Item]) -> None:
        """Add a stage's manifest; a benchmark has one for each block, and the first finished one stands for all."""
        if not items:
            return
        finished = [item for item in items if item[1].status == "ok"]
        self.folders[stage], self.manifests[stage] = (finished or items)[0]
        if stage is Stage.BENCH and finished:
            self.benchmarks.append([manifest for _, manifest in items])

    @property
    def name(self) -> str:
        """The folder name under outputs/."""
        return str(self.variant)

    @property
    def is_baseline(self) -> bool:
        """True for the unchanged BF16 checkpoint on the fewest GPUs on which there is a result of it."""
        return self.is_unchanged and not self.is_further

    @property
    def is_unchanged(self) -> bool:
        """True for the BF16 checkpoint, served unchanged."""
        return self.quant.get("engine") == "none" and self.kv_dtype == "auto" and self.variant.kernel == "auto"

    @property
    def family(self) -> Family:
        """The family of its format."""
        scheme = str(self.quant.get("scheme") or "")
        if self.is_unchanged:
            return "baseline"
        if not scheme:
            return "other" if self.quant.get("engine") == EXISTING else "KV cache"
        return SCHEMES[scheme].family if scheme in SCHEMES else "other"

    @property
    def is_measured(self) -> bool:
        """True if there are speeds or scores of it."""
        return any(self.finished(stage) for stage in (Stage.BENCH, Stage.EVAL))

    def finished(self, stage: Stage) -> Manifest | None:
        """Return the stage's manifest if its status is ok."""
        manifest = self.manifests.get(stage)
        return manifest if manifest is not None and manifest.status == "ok" else None

    def result(self, cls: type[R]) -> R | Missing:
        """The results of the stage that writes this class, or why there are none."""
        stage = STAGE_OF[cls]
        manifest = self.finished(stage)
        return Missing(reason=self.missing_reason(stage)) if manifest is None else read(cls, manifest)

    def servers(self) -> Iterator[ServerFacts]:
        """The servers behind the results: the benchmark's own first, then the one that answered the tasks."""
        found: tuple[BenchResult | EvalResult | VerifyResult | Missing, ...]
        found = (self.result(BenchResult), self.result(EvalResult), self.result(VerifyResult))
        for result in found:
            if not isinstance(result, Missing) and "server" in result.model_fields_set:
                yield result.server

    def missing_reason(self, stage: Stage) -> str:
        """Return the reason why a stage has no result: its own, an earlier stage's, or that it has not run."""
        for earlier in READ[: READ.index(stage) + 1][::-1]:
            manifest = self.manifests.get(earlier)
            if manifest is None or manifest.status == "ok":
                continue
            if manifest.status == "failed" and self.failure:
                return first_line(self.failure)
            # Scores need no benchmark.
            if manifest.status == "failed" or earlier is stage or earlier is not Stage.BENCH:
                return first_line(manifest.reason or f"{earlier} {manifest.status}")
        if self.outcome and not self.failure:
            return f"not measured further: {first_line(self.outcome)}"
        return first_line(self.failure) if self.failure else f"{stage} has not run"


class Divided(Protocol):
    """A study that makes benchmarks and evaluations in parts (`budgeted_study`)."""

    @property
    def outcomes(self) -> Mapping[str, str]:
        """For each variant, why it was or was not measured in full."""

    def artifacts(self, name: str, stage: Stage) -> Sequence[Artifact] | None:
        """Return what the rows show of a variant's stage; None if the study does not divide it."""


def sources(jobs: Sequence[Job], failures: Mapping[str, PipelineError], study: Divided | None = None) -> list[Source]:
    """Return one entry for each row of the report, the baseline first."""
    if jobs[0].settings.report.recorded:
        return _ordered(list(_recorded(jobs[0])))
    rows: dict[str, Source] = {}
    for job in jobs:
        source = _of_job(job, failures.get(str(job.variant)), study)
        row = rows.setdefault(source.name, source)
        if row is not source:
            row.benchmarks += source.benchmarks
    found = list(rows.values())
    if jobs[0].settings.variants is None:
        found += _peers(jobs[0], {source.name for source in found})
    return _ordered(found)


def _ordered(found: list[Source]) -> list[Source]:
    """Choose the baseline, sort it first, and make every label unique."""
    unchanged = [source for source in found if source.is_unchanged]
    unchanged.sort(key=lambda source: (not source.is_measured, source.variant.gpus))
    for source in unchanged[1:]:
        source.is_further = True
    found.sort(key=lambda source: not source.is_baseline)
    _make_unique(found)
    return found


def _of_job(job: Job, failure: PipelineError | None, study: Divided | None) -> Source:
    settings, name = job.settings, str(job.variant)
    source = Source(
        variant=job.variant,
        label=_label(settings.quant.title, settings.kv_cache.dtype, job.variant),
        quant=settings.quant.model_dump(mode="json"),
        kv_dtype=settings.kv_cache.dtype,
        failure=failure.problem if failure is not None else "",
        outcome=study.outcomes.get(name, "") if study else "",
    )
    for stage in _stages(job):
        try:
            artifacts = study.artifacts(name, stage) if study else None
            if artifacts is None:
                artifacts = [each.artifact(stage) for each in (job.blocks if stage is Stage.BENCH else (job,))]
        except PipelineError as error:
            # A missing data set must not hide the row; the row shows the error.
            source.failure = source.failure or error.problem
            continue
        source.add(stage, [(each.folder, made) for each in artifacts if (made := each.manifest()) is not None])
    return source


def _stages(job: Job) -> Iterator[Stage]:
    for stage in READ:
        if stage is not Stage.CALIBRATE or job.settings.needs_calibration:
            yield stage


def _peers(job: Job, known: set[str]) -> Iterator[Source]:
    """Yield the other variants with a finished result under this job's settings."""
    found = _everything(job)
    results: dict[str, dict[Stage, list[Item]]] = {}
    for stage in (Stage.BENCH, Stage.EVAL):
        try:
            wanted = [
                conditions(each.artifact(stage).payload) for each in (job.blocks if stage is Stage.BENCH else (job,))
            ]
        except PipelineError:
            continue
        for item in found[stage]:
            if item[1].variant and item[1].status == "ok" and conditions(item[1].payload) in wanted:
                results.setdefault(item[1].variant, {}).setdefault(stage, []).append(item)
    model = job.model.identity()
    for variant, stages in results.items():
        key = list(stages.values())[-1][-1][1].payload.get("quantize")
        own = (str(Variant.parse(variant).checkpoint), key)
        checkpoint = next((i for i in found[Stage.QUANTIZE] if (i[1].variant, i[1].key) == own), None)
        if variant in known or checkpoint is None or checkpoint[1].payload.get("model") != model:
            continue
        same = {s: [item for item in items if item[1].payload.get("quantize") == key] for s, items in stages.items()}
        yield _peer(variant, checkpoint, {s: _latest(items) for s, items in same.items() if items}, found)


def _everything(job: Job) -> ManifestIndex:
    """Return every manifest of the model, oldest first."""
    return {stage: list(job.workspace.manifests(job.settings.model.name, stage.value)) for stage in READ}


def _recorded(job: Job) -> Iterator[Source]:
    """Yield every variant that was served, with the results of its latest checkpoint, under any settings."""
    found = _everything(job)
    found[Stage.QUANTIZE] = _of_one_model(job, found[Stage.QUANTIZE])
    served = {stage: found[stage] for stage in (Stage.VERIFY, Stage.BENCH, Stage.EVAL)}
    for variant in dict.fromkeys(m.variant for items in served.values() for _, m in items if m.variant):
        own = {stage: [item for item in items if item[1].variant == variant] for stage, items in served.items()}
        latest = max((manifest for items in own.values() for _, manifest in items), key=lambda m: m.started)
        key = latest.payload.get("quantize")
        checkpoint = next((item for item in found[Stage.QUANTIZE] if item[1].key == key), None)
        if checkpoint is None:
            continue
        made = {s: [item for item in items if item[1].payload.get("quantize") == key] for s, items in own.items()}
        # The protocol that is asked for now is the one whose figures stand in the main table.
        made[Stage.BENCH].sort(key=lambda item: _protocol(item[1]) == job.settings.bench.name)
        source = _peer(variant, checkpoint, {stage: _latest(items) for stage, items in made.items() if items}, found)
        protocols: dict[str, list[Item]] = {}
        for item in made[Stage.BENCH]:
            if item[1].status == "ok":
                protocols.setdefault(_protocol(item[1]), []).append(item)
        source.benchmarks = [[m for _, m in _latest(items)] for items in protocols.values()][::-1]
        yield source


def _of_one_model(job: Job, checkpoints: list[Item]) -> list[Item]:
    """Return the checkpoints that were made of the model, which shares the folder with any other of its name."""
    model: Payload | None
    try:
        model = job.model.identity()
    except PipelineError:
        # Results of elsewhere: the weights are not here, and the latest tell the model.
        model = checkpoints[-1][1].payload.get("model") if checkpoints else None
    return [item for item in checkpoints if item[1].payload.get("model") == model]


def _latest(items: Sequence[Item]) -> list[Item]:
    """Return the latest result, of a benchmark with its other blocks; `items` are sorted by age, the oldest first."""
    like = _without_block(items[-1][1])
    blocks = {item[1].payload.get("block", 0): item for item in items if _without_block(item[1]) == like}
    return [blocks[block] for block in sorted(blocks)]


def _without_block(manifest: Manifest) -> Payload:
    return {name: value for name, value in manifest.payload.items() if name != "block"}


def _protocol(benchmark: Manifest) -> str:
    result = read(BenchResult, benchmark)
    return "" if isinstance(result, Missing) else result.protocol


def _peer(variant: str, checkpoint: Item, results: dict[Stage, list[Item]], found: ManifestIndex) -> Source:
    """Assemble a variant of an earlier run from the keys in its manifests."""
    made = checkpoint[1]
    serve = next(iter(results.values()))[0][1].payload.get("serve")
    parsed = Variant.parse(variant)
    dtype = str((serve or {}).get("kv_cache", parsed.kv_cache))
    quant = dict(made.payload.get("quant", {}))
    source = Source(parsed, _label(_title(parsed.quant, quant), dtype, parsed), quant, dtype)
    everything = {Stage.QUANTIZE: [checkpoint], **results}
    for item in found[Stage.VERIFY]:
        if item[1].variant == variant and item[1].payload.get("quantize") == made.key:
            everything[Stage.VERIFY] = [item]
    for item in found[Stage.CALIBRATE]:
        if observations_key(item[1].payload) == made.payload.get(Stage.CALIBRATE.value):
            everything[Stage.CALIBRATE] = [item]
    for stage, items in everything.items():
        source.add(stage, items)
    return source


def conditions(payload: Mapping[str, Any]) -> Payload:
    """Return the conditions that results in one table must share: all but checkpoint, KV cache, kernel and GPUs.

    A ladder's reference is left out: BF16, which is the reference of all others, has none.
    """
    serve = {name: value for name, value in payload.get("serve", {}).items() if name not in ("kv_cache", *SERVING)}
    own = ("quantize", "reference")
    return {**{name: value for name, value in payload.items() if name not in own}, "serve": serve}


def _label(title: str, kv_dtype: str, served: Variant) -> str:
    if served.kernel != "auto":
        title = f"{title}, {served.kernel}"
    if kv_dtype != "auto":
        kind, _, form = kv_dtype.partition("_")
        title = f"{title} + {kind.upper()} KV{f' ({form.upper()})' if form else ''}"
    divided = f", TP {served.tensor_parallel}" if served.tensor_parallel > 1 else ""
    copied = f", DP {served.data_parallel}" if served.data_parallel > 1 else ""
    return clean(f"{title}{divided}{copied}", 60)


def _title(quant: str, made: Payload) -> str:
    """Return the row label of a format that is not configured in this run."""
    if made.get("engine") == EXISTING:
        return title_of(made)
    variant = Variant(quant=quant)
    return ", ".join([str((choice("quant", variant.format) or {}).get("title", variant.format)), *variant.options])


def _make_unique(found: Sequence[Source]) -> None:
    """Make labels unique: a chart would merge rows with the same label."""
    labels = [source.label for source in found]
    for source in found:
        if labels.count(source.label) > 1:
            source.label = clean(f"{source.label} ({source.name})", 90)
