"""One variant with its stages: their artifacts, inputs and order.

A stage is a package `pipeline.stages.<stage>` with four names:

* `SHARED`: whether its artifact belongs to the model rather than to one variant,
* `needs(settings)`: the stages whose artifacts it reads,
* `identity(job)`: the payload of its key; called before anything runs, so it must be cheap,
* `make(job, draft)`: the work; heavy imports happen here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline.artifacts.keys import Digests, Payload
from pipeline.artifacts.workspace import Artifact, Draft, Workspace
from pipeline.config import Command, Settings, Stage, Variant
from pipeline.hardware.probe import Hardware
from pipeline.models.existing import ExistingCheckpoint
from pipeline.models.source import ModelSource

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.serve.server import Server, Serving, Target


class StageModule(Protocol):
    """Interface of a package `pipeline.stages.<stage>`."""

    SHARED: bool

    def needs(self, settings: Settings) -> tuple[Stage, ...]:
        """Return the stages whose artifacts are read."""

    def identity(self, job: Job) -> Payload:
        """Return exactly what the artifact's content depends on."""

    def make(self, job: Job, draft: Draft) -> None:
        """Fill the draft."""


def module_of(stage: Stage) -> StageModule:
    """Return the package that implements a stage."""
    return cast(StageModule, importlib.import_module(f"pipeline.stages.{stage.value}"))


@dataclass
class Job:
    """One variant with the objects that its stages share.

    `reference` is the job whose benchmark fixes the loads of this one's ladder; None if its own throughput does.
    `block` is the index of the benchmark's block; the artifacts of all other stages are the same in each.
    `existing` is the checkpoint of a variant that others quantized.
    `unmade`, `unserved` and `untimed` are the reasons why it cannot be made of the model, not be served here, or not be
    benchmarked here; empty if it can.
    A study with a budget makes parts of a benchmark or evaluation: `part` names one, and `whole` is the job it is of.
    """

    settings: Settings
    workspace: Workspace
    hardware: Hardware
    digests: Digests
    model: ModelSource
    progress: Progress
    serving: Serving
    overrides: list[str] = field(default_factory=list)
    reference: Job | None = None
    block: int = 0
    part: str = ""
    whole: Job | None = None
    existing: ExistingCheckpoint | None = None
    unmade: str = ""
    unserved: str = ""
    untimed: str = ""

    @cached_property
    def blocks(self) -> tuple[Job, ...]:
        """This job in each block of its benchmark; just one if it is n/a, or of a server that is not restarted."""
        number = 1 if self.settings.serve.url or self.untimed else self.settings.bench.blocks
        # The loads of a ladder are the same in each block.
        source = self.reference or self
        return (self, *(replace(self, block=block, reference=source) for block in range(1, number)))

    def in_block(self, block: int) -> Job:
        """Return this job in a block of its benchmark, requested or not."""
        return replace(self, block=block) if block else self

    @cached_property
    def screen(self) -> Job:
        """The short benchmark and evaluation that show whether this variant is measured further."""
        parts = {"bench": self.settings.bench.screen, "eval": self.settings.eval.screen}
        return self._part("screen", self.settings.model_copy(update=parts))

    def scored(self, share: float) -> Job:
        """Return this job with a share of the items; the whole job is its own share of 1."""
        if share == 1:
            return self
        scoring = {"eval": self.settings.eval.of_share(share)}
        return self._part(f"{100 * share:g} % of the items", self.settings.model_copy(update=scoring))

    def _part(self, name: str, settings: Settings) -> Job:
        return replace(self, settings=settings, part=name, whole=self)

    @property
    def variant(self) -> Variant:
        """Name of the variant."""
        return self.settings.variant

    def artifact(self, stage: Stage) -> Artifact:
        """Return the stage's artifact, finished or not."""
        if stage not in self._artifacts:
            module = module_of(stage)
            self._artifacts[stage] = self.workspace.artifact(
                stage.value,
                self.settings.model.name,
                None if module.SHARED else str(self.variant.checkpoint if stage is Stage.QUANTIZE else self.variant),
                module.identity(self),
            )
        return self._artifacts[stage]

    @cached_property
    def _artifacts(self) -> dict[Stage, Artifact]:
        return {}

    @property
    def checkpoint(self) -> Path:
        """Folder that vLLM loads; exists once `quantize` is done."""
        return self.artifact(Stage.QUANTIZE).folder / "checkpoint"

    @property
    def tokenizer(self) -> Path:
        """Folder with the model's tokenizer; without weights if the user runs the server."""
        return self.model.shape_folder if self.settings.serve.url else self.checkpoint

    def target(self) -> Target:
        """Return the server under test: that of this variant, or the one that the user runs."""
        serve = self.settings.serve
        return self.server() if serve.url is None else self.serving.attach(self.tokenizer, self.settings)

    def server(self, *, prefix_caching: bool = False) -> Server:
        """Return the running server of this variant's checkpoint, started on first use.

        Args:
            prefix_caching: compute shared prefixes of requests once; a benchmark must not.
        """
        return self.serving.serve(self.checkpoint, self.settings, str(self.variant), prefix_caching=prefix_caching)

    def closure(self, requested: Iterable[Stage | Command]) -> Iterator[Stage]:
        """Yield the requested stages and all their inputs, in the order of the data."""
        wanted: set[Stage] = set()

        def add(stage: Stage) -> None:
            if stage not in wanted:
                wanted.add(stage)
                for needed in module_of(stage).needs(self.settings):
                    add(needed)

        for each in requested:
            if isinstance(each, Stage):
                add(each)
            elif each is Command.PUBLISH:
                add(Stage.VERIFY)
        yield from (stage for stage in Stage if stage in wanted)
