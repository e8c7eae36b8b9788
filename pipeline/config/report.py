"""`conf/report`: what is decided, and what is rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
)

from pipeline.config.base import Section
from pipeline.config.hardware import GpuName


class ConstraintSettings(Section):
    """What a deployment has to hold; null: no such constraint."""

    memory_gib: PositiveFloat | None = Field(None, description="memory that weights and KV cache have to fit in, GiB")
    ttft_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time to the first token, ms")
    tpot_p99_ms: PositiveFloat | None = Field(
        None, description="largest p99 of the time per output token after the first, ms"
    )
    max_loss_points: dict[str, NonNegativeFloat] = Field(
        None,
        validate_default=True,
        description="largest loss of accuracy against BF16 by task, in points, e.g. {MMLU: 1, GSM8K: 2}",
    )
    hardware: GpuName | None = Field(
        None, description="GPU of pipeline/hardware/gpus.py that has to serve it natively, e.g. L40S"
    )

    @field_validator("max_loss_points", mode="before")
    @classmethod
    def _none_is_no_limit(cls, value: Any) -> Any:
        return {} if value is None else value


class ReportSettings(Section):
    """What is rendered, beside the terminal."""

    name: str = Field(description="name of the choice")
    title: str = Field("Which quantization should I deploy?", description="heading of the report")
    recorded: bool = Field(
        False, description="show what outputs holds of the model, under whatever settings and wherever it was measured"
    )
    constraints: ConstraintSettings = Field(
        ConstraintSettings(), description="what a deployment has to hold, each null for no such constraint"
    )
    margin_points: PositiveFloat = Field(1, description="loss of accuracy, in points, that still counts as no worse")
    margin_percent: PositiveFloat = Field(1, description="loss of speed, in percent, that still counts as no worse")
    what_if: tuple[GpuName, ...] = Field(
        ("RTX 4090", "A100 80GB SXM", "H100 SXM"), description="GPUs that need not be here, for the roofline to predict"
    )
    runs: tuple[Path, ...] = Field(
        (), description="earlier runs to show beside this one, the oldest first: report.json or outputs folders"
    )
    baseline: Path | None = Field(
        None, description="run that stage=gate holds this one against: report.json or outputs folder"
    )
    tolerance_percent: NonNegativeFloat = Field(
        2, description="change of speed or size between sessions, in percent, that counts as none"
    )
    mlflow: str | None = Field(
        None, description="tracking URI to log to as well, e.g. file:./mlruns; null: MLflow is not imported"
    )
    formats: tuple[Literal["html", "md", "csv", "json", "png"], ...] = Field(
        ("html", "md", "csv", "json"), description="files to write; png: each chart as a file for slides, under charts/"
    )
    json_line: bool | None = Field(
        None, description="end standard output with the result as one line of JSON; null: where it is no terminal"
    )
