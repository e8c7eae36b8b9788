"""One variant's way through the stages: what each stage makes, from what, and in which order.

A stage is a package `pipeline.stages.<stage>` with four names:

* `SHARED`: whether its artifact belongs to the model rather than to one variant,
* `needs(settings)`: the stages whose artifacts it reads,
* `identity(job)`: the payload that its key is made of; called before anything runs, so it must be light,
* `make(job, draft)`: the work; heavy imports happen here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline.artifacts.keys import Digests, Payload
from pipeline.artifacts.workspace import Artifact, Draft, Workspace
from pipeline.config import Command, Settings, Stage, Variant
from pipeline.hardware.probe import Hardware
from pipeline.models.source import ModelSource

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.serve.server import Server, Serving, Target


class StageModule(Protocol):
    """What `pipeline.stages.<stage>` offers."""

    SHARED: bool

    def needs(self, settings: Settings) -> tuple[Stage, ...]:
        """The stages whose artifacts are read."""

    def identity(self, job: Job) -> Payload:
        """What the artifact's content depends on, and nothing else."""

    def make(self, job: Job, draft: Draft) -> None:
        """Fills the draft."""


def module_of(stage: Stage) -> StageModule:
    """The package that implements a stage."""
    return cast(StageModule, importlib.import_module(f"pipeline.stages.{stage.value}"))


@dataclass
class Job:
    """One variant with everything that its stages share."""

    settings: Settings
    workspace: Workspace
    hardware: Hardware
    digests: Digests
    model: ModelSource
    progress: Progress
    serving: Serving
    overrides: list[str] = field(default_factory=list)

    @property
    def variant(self) -> Variant:
        """The variant's name."""
        return self.settings.variant

    def artifact(self, stage: Stage) -> Artifact:
        """The stage's artifact, finished or not."""
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
        """The folder that vLLM loads; there once `quantize` is done."""
        return self.artifact(Stage.QUANTIZE).folder / "checkpoint"

    @property
    def tokenizer(self) -> Path:
        """A folder with the model's tokenizer, without the weights where nothing is served from here."""
        return self.model.shape_folder if self.settings.serve.url else self.checkpoint

    def target(self) -> Target:
        """What a benchmark puts its loads on: the server of this variant, or the one that the user runs."""
        serve = self.settings.serve
        return self.server() if serve.url is None else self.serving.attach(serve.url, self.tokenizer, self.settings)

    def server(self, *, prefix_caching: bool = False) -> Server:
        """The running server of this variant's checkpoint, started when first asked for.

        Args:
            prefix_caching: compute what requests begin with in common once; a benchmark must not.
        """
        return self.serving.serve(self.checkpoint, self.settings, str(self.variant), prefix_caching=prefix_caching)

    def closure(self, asked: Iterable[Stage | Command]) -> Iterator[Stage]:
        """Yield the asked stages and all that they need, in the order of the data."""
        wanted: set[Stage] = set()

        def add(stage: Stage) -> None:
            if stage not in wanted:
                wanted.add(stage)
                for needed in module_of(stage).needs(self.settings):
                    add(needed)

        for each in asked:
            if isinstance(each, Stage):
                add(each)
            elif each is Command.PUBLISH:
                add(Stage.VERIFY)
        yield from (stage for stage in Stage if stage in wanted)
