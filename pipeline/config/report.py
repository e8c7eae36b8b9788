"""`conf/hardware`, `conf/report`, `conf/publish`: where it ran, what is decided, and who gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
)

from pipeline.config.base import Section
from pipeline.hardware.gpus import GPUS, gpu_of


def _in_catalogue(name: str) -> str:
    """The catalogue's name of a GPU, whether it was called `H100 SXM` or `h100_sxm`."""
    gpu = gpu_of(name)
    if gpu is None:
        raise ValueError(f"{name}: the catalogue has no GPU of that name, but {', '.join(gpu.key for gpu in GPUS)}")
    return gpu.name


GpuName = Annotated[str, AfterValidator(_in_catalogue)]


class HardwareSettings(Section):
    """The machine, where it should not be probed."""

    name: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu: GpuName | None = Field(None, description="a GPU of the catalogue that need not be here: what could it serve?")


class ConstraintSettings(Section):
    """What a deployment has to hold; null: no such constraint."""

    memory_gib: PositiveFloat | None = Field(None, description="of the card that weights and KV cache have to fit on")
    ttft_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time to the first token")
    tpot_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time per output token")
    max_loss_points: dict[str, NonNegativeFloat] = Field(
        {}, description="task label -> largest loss of accuracy against BF16, in points"
    )
    hardware: GpuName | None = Field(None, description="GPU of the catalogue that has to serve it natively")

    @field_validator("max_loss_points", mode="before")
    @classmethod
    def _none_is_no_limit(cls, value: Any) -> Any:
        return {} if value is None else value


class ReportSettings(Section):
    """What is rendered, beside the terminal."""

    name: str
    title: str = "Which quantization should I deploy?"
    recorded: bool = Field(
        False, description="show what outputs holds of the model, under whatever settings and wherever it was measured"
    )
    constraints: ConstraintSettings = ConstraintSettings()
    margin_points: PositiveFloat = Field(1, description="loss of accuracy, in points, that still counts as no worse")
    margin_percent: PositiveFloat = Field(1, description="loss of speed, in percent, that still counts as no worse")
    what_if: tuple[GpuName, ...] = Field((), description="GPUs of pipeline/hardware/gpus.py to predict for")
    runs: tuple[Path, ...] = Field((), description="earlier runs, the oldest first: report.json or outputs folders")
    baseline: Path | None = Field(
        None, description="report.json or outputs folder that stage=gate holds this run against"
    )
    tolerance_percent: NonNegativeFloat = Field(
        2, description="change of speed or size between sessions that counts as none"
    )
    mlflow: str | None = Field(None, description="tracking URI to log to; null: MLflow is not imported")
    formats: tuple[Literal["html", "md", "csv", "json", "png"], ...] = Field(
        ("html", "md", "csv", "json"), description="png: each chart as a file for slides"
    )
    json_line: bool | None = Field(
        None, description="end standard output with the result as one line of JSON; null: where it is no terminal"
    )


class PublishSettings(Section):
    """Where checkpoints go on the Hugging Face hub, and what their cards cannot know."""

    name: str = "hub"
    repo_id: str | None = Field(None, description="owner/name; {model} and {variant} stand for theirs")
    private: bool = Field(True, description="a repository that is made new is private")
    dry_run: bool = Field(True, description="write the folder and say what would be uploaded, and upload nothing")
    base_model: str | None = Field(None, description="hub id of the BF16 checkpoint; null: model.hub_id")
    license: str | None = Field(None, description="the hub's name of it; null: what the BF16 checkpoint's card says")
