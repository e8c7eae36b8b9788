"""All groups together: validation across groups, the definition of a variant, and all errors at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.config.base import Command, SettingsGroup, Stage
from pipeline.config.bench import BenchSettings
from pipeline.config.calibration import CalibrationSettings
from pipeline.config.eval import EvalSettings
from pipeline.config.existing import GPUS as _WRITTEN_GPUS
from pipeline.config.existing import WRITTEN as _WRITTEN_EXISTING
from pipeline.config.hardware import HardwareSettings
from pipeline.config.kv_cache import KVCacheSettings
from pipeline.config.messages import of_validation
from pipeline.config.model import ModelSettings
from pipeline.config.names import unknown
from pipeline.config.publish import PublishSettings
from pipeline.config.quant import QuantSettings
from pipeline.config.report import ReportSettings
from pipeline.config.serve import ServeSettings
from pipeline.hardware.vllm_kernels import choices

# A variant as it is written: `w4a16(group_size=64,ignore=[lm_head])+fp8_e4m3@marlin@tp2`.
_WRITTEN = re.compile(
    rf"(?P<quant>[^+@(]*(?:\(.*\))?)(?:\+(?P<kv_cache>[^@]*))?(?:@(?![td]p\d)(?P<kernel>.*?))?{_WRITTEN_GPUS}"
)
# Settings of `serve` that are part of a variant's name.
SERVING = ("kernel", "tensor_parallel", "data_parallel")


class Variant(BaseModel):
    """One row of the report: a weight format, a KV-cache format, and the kernel and the GPUs that serve it."""

    model_config = ConfigDict(frozen=True)
    quant: str = Field(description="name of the weight and activation format, with settings of its own in parentheses")
    kv_cache: str = Field("auto", description="name of the KV-cache format; auto: the model's")
    kernel: str = Field("auto", description="kernel of the quantized layers; auto: vLLM's choice")
    tensor_parallel: int = Field(1, description="GPUs that share each weight")
    data_parallel: int = Field(1, description="copies of the model, each with requests of its own")

    @classmethod
    def parse(cls, text: str, **defaults: Any) -> Variant:
        """Parse `quant[(setting=value,...)][+kv_cache][@kernel][@tp<n>][@dp<n>]`; `defaults` are those of `SERVING`."""
        found = _WRITTEN_EXISTING.fullmatch(text) or _WRITTEN.fullmatch(text)
        if found is None:
            return cls(quant=text, **defaults)
        written = dict(re.findall(r"@([td]p)(\d+)", found["gpus"]))
        given = {
            "kernel": found["kernel"],
            "tensor_parallel": written.get("tp"),
            "data_parallel": written.get("dp"),
        }
        serving = defaults | {name: value for name, value in given.items() if value}
        return cls(quant=found["quant"], kv_cache=found["kv_cache"] or "auto", **serving)

    @property
    def checkpoint(self) -> Variant:
        """The variant that names the checkpoint: all ways to serve it share one."""
        return Variant(quant=self.quant, kv_cache=self.kv_cache)

    @property
    def serving(self) -> dict[str, Any]:
        """The settings of `serve` that are part of the name."""
        return self.model_dump(include=set(SERVING))

    @property
    def gpus(self) -> int:
        """Number of GPUs that serve it."""
        return self.tensor_parallel * self.data_parallel

    @property
    def format(self) -> str:
        """The name of the format's file in conf/quant, without settings of the variant's own."""
        return self.quant.partition("(")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """Settings of the format that only this variant has, each as `name=value`."""
        inside = self.quant.partition("(")[2].removesuffix(")")
        # A comma within a list separates the list's elements.
        return tuple(part.strip() for part in re.split(r",(?![^\[]*\])", inside) if part.strip())

    def __str__(self) -> str:
        """The name, as it is parsed."""
        served = {
            f"@{self.kernel}": self.kernel != "auto",
            f"@tp{self.tensor_parallel}": self.tensor_parallel != 1,
            f"@dp{self.data_parallel}": self.data_parallel != 1,
        }
        cache = "" if self.kv_cache == "auto" else f"+{self.kv_cache}"
        return "".join((self.quant, cache, *(part for part, is_named in served.items() if is_named)))


class Settings(SettingsGroup):
    """The whole configuration of one variant."""

    stage: tuple[Stage | Command, ...] = Field(
        "all",
        validate_default=True,
        min_length=1,
        description="one, a list as quantize,bench, or all: the stages and report",
    )
    variants: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="several `quant[(setting=value)][+kv_cache][@kernel][@tp<n>][@dp<n>]` in one run, e.g. "
        "[bf16, bf16+fp8_e4m3, 'w4a16(group_size=64)', bf16@tp2]; quantized by others: hub:<owner>/<name> or "
        "folder:<path>; null: just one",
    )
    protocols: tuple[str, ...] | None = Field(
        None, description="several files of bench/ in one run, e.g. [study, ladder]; null: just one"
    )
    add_bf16: bool = Field(
        True, description="add the variant bf16 where results are compared (bench, eval, report, gate)"
    )
    dry_run: bool = Field(False, description="print what would run and why, and stop")
    outputs: Path = Field(Path("outputs"), description="folder of the artifacts")
    verify: Literal["size", "full"] = Field(
        "size", description="how files of finished artifacts are compared with their manifests; full: by content too"
    )
    model: ModelSettings = Field(description="BF16 checkpoint that every variant is made from")
    calibration: CalibrationSettings = Field(
        description="conversations that the BF16 model reads, and how ranges are computed"
    )
    quant: QuantSettings = Field(description="weight and activation format")
    kv_cache: KVCacheSettings = Field(description="storage format of keys and values while serving")
    serve: ServeSettings = Field(description="options of the vLLM server, a new one for each variant")
    bench: BenchSettings = Field(description="load of the benchmark")
    eval: EvalSettings = Field(description="tasks, and how answers are scored")
    hardware: HardwareSettings = Field(description="overrides of the probed hardware")
    report: ReportSettings = Field(description="constraints of the recommendation, and output of the report")
    publish: PublishSettings = Field(
        PublishSettings(), description="model cards for the Hugging Face hub; stage=publish"
    )

    @field_validator("stage", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        known = [each.value for each in (*Stage, *Command)]
        # `all` never publishes; publishing must be requested.
        everything = (*Stage, Command.REPORT)
        names: list[str] = []
        for name in [value] if isinstance(value, str) else list(value):
            if name not in (*known, "all"):
                raise ValueError(unknown(str(name), (*known, "all")))
            names += everything if name == "all" else [str(name)]
        return tuple(Stage(name) if name in list(Stage) else Command(name) for name in dict.fromkeys(names))

    @field_validator("variants")
    @classmethod
    def _in_order(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if found := re.fullmatch(r"([^@]*)@([^+]*)\+(.*)", name):
                raise ValueError(f"{name}: the cache comes before what serves it: {found[1]}+{found[3]}@{found[2]}")
        return names

    @model_validator(mode="before")
    @classmethod
    def _one_loss_for_every_task(cls, given: Any) -> Any:
        """Take one number of `max_loss_points` for each task."""
        report, tasks = given.get("report"), (given.get("eval") or {}).get("tasks")
        if not isinstance(report, dict) or not isinstance(constraints := report.get("constraints"), dict):
            return given
        limits = constraints.get("max_loss_points")
        if isinstance(limits, bool) or not isinstance(limits, (int, float)) or not tasks:
            return given
        constraints = {**constraints, "max_loss_points": dict.fromkeys(tasks, limits)}
        return {**given, "report": {**report, "constraints": constraints}}

    @model_validator(mode="after")
    def _gates_against_something(self) -> Settings:
        if Command.GATE in self.stage and self.report.baseline is None:
            raise ValueError("stage=gate needs report.baseline=<report.json of the run to compare with>")
        return self

    @model_validator(mode="after")
    def _limits_known_tasks(self) -> Settings:
        if unknown := [task for task in self.report.constraints.max_loss_points if task not in self.eval.tasks]:
            raise ValueError(
                f"report.constraints.max_loss_points={', '.join(unknown)}: eval={self.eval.name} has "
                f"{', '.join(self.eval.tasks)}"
            )
        return self

    @model_validator(mode="after")
    def _kernel_fits_the_scheme(self) -> Settings:
        # The scheme of a checkpoint that others made is not read yet.
        if not self.quant.is_existing and (reason := why_no_kernel(self.serve.kernel, self.quant)):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _attaches_to_measure_alone(self) -> Settings:
        if self.serve.url is not None and not set(self.stage) <= {Stage.BENCH, Command.REPORT}:
            raise ValueError(
                f"serve.url={self.serve.url} goes with stage=bench or [bench,report]; other stages need files"
            )
        if self.serve.url is not None and self.variants is not None and len(self.variants) > 1:
            raise ValueError(
                f"serve.url={self.serve.url} has one checkpoint, and variants={list(self.variants)} are several: "
                "name the one that it serves; another one is another server, and another command"
            )
        if self.serve.url is not None and self.serve.gpus > 1:
            raise ValueError(
                f"serve.url={self.serve.url} is a server that runs already: serve.tensor_parallel and "
                "serve.data_parallel are of servers that are started here"
            )
        if self.serve.url is None and (self.serve.model or self.serve.api_key_env):
            raise ValueError("serve.model and serve.api_key_env are of a server that runs already: set serve.url")
        return self

    @model_validator(mode="after")
    def _spends_on_several_variants(self) -> Settings:
        if not self.has_budget:
            return self
        setting = "bench.budget_minutes" if self.bench.budget_minutes is not None else "eval.budget_minutes"
        if self.variants is None or len(self.variants) < 2:
            raise ValueError(f"{setting} is divided among variants: set variants=[bf16, ...]")
        if self.protocols is not None and len(self.protocols) > 1:
            raise ValueError(f"{setting} goes with one benchmark: protocols={list(self.protocols)} are several")
        measured = {Stage.BENCH, Stage.EVAL} & set(self.stage)
        if len(measured) == 1:
            raise ValueError(
                f"{setting} with stage={', '.join(self.stage)}: speed and accuracy decide together what is measured "
                "further; request bench and eval, e.g. stage=all"
            )
        if self.report.objective != "throughput":
            raise ValueError(f"{setting} follows throughput, and report.objective={self.report.objective} does not")
        return self

    @property
    def has_budget(self) -> bool:
        """True if benchmarks or evaluations go on only for variants that may still be the answer."""
        return self.bench.budget_minutes is not None or self.eval.budget_minutes is not None

    @property
    def needs_calibration(self) -> bool:
        """True if the checkpoint depends on calibration data."""
        return self.quant.needs_data or self.kv_cache.needs_data

    @property
    def takes_ranges(self) -> bool:
        """True if scales in the checkpoint come from observed ranges."""
        return self.quant.static_activations is not None or self.kv_cache.needs_data

    @property
    def is_baseline(self) -> bool:
        """True for the BF16 checkpoint, served unchanged."""
        return self.quant.engine == "none" and self.kv_cache.dtype == "auto"

    @property
    def variant(self) -> Variant:
        """The variant that these settings describe."""
        return Variant(
            quant=self.quant.name, kv_cache=self.kv_cache.name, **self.serve.model_dump(include=set(SERVING))
        )


def why_no_kernel(kernel: str, quant: QuantSettings) -> str:
    """Return why a format cannot be served by a kernel, whatever the hardware; empty if it can."""
    known = ("auto", *choices(quant.scheme))
    if kernel in known:
        return ""
    return (
        f"serve.kernel={kernel}: vLLM has no such kernel for {quant.scheme or quant.title} (quant={quant.name}); known "
        f"are {', '.join(known)}"
    )


def validate(config: dict[str, Any]) -> Settings:
    """Validate Hydra's composed configuration.

    Raises:
        ConfigError: naming each setting that is unknown, of the wrong type or invalid.
    """
    try:
        return Settings.model_validate(config)
    except ValidationError as error:
        raise of_validation(error, Settings) from None
