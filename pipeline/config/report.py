"""`conf/report`: constraints of the recommendation, and output of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    field_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.credentials import NO_CREDENTIALS, WITH_A_USER
from pipeline.config.hardware import GpuSetting


class ConstraintSettings(SettingsGroup):
    """The constraints of a deployment; null: not constrained."""

    memory_gib: PositiveFloat | None = Field(None, description="memory for weights and KV cache, GiB")
    ttft_p99_ms: PositiveFloat | None = Field(None, description="largest p99 of the time to the first token, ms")
    tpot_p99_ms: PositiveFloat | None = Field(
        None, description="largest p99 of the time per output token after the first, ms"
    )
    at: str | None = Field(
        None, description="load at which the latencies are judged, e.g. 'concurrency 16'; null: the one of the tables"
    )
    max_loss_points: dict[str, NonNegativeFloat] = Field(
        None,
        validate_default=True,
        description="largest loss of accuracy against BF16 by task, in points, e.g. {MMLU: 1, GSM8K: 2}",
    )
    hardware: GpuSetting | None = Field(
        None, description="GPU that must serve it natively, as in hardware.gpu, e.g. L40S"
    )

    @field_validator("max_loss_points", mode="before")
    @classmethod
    def _none_is_no_limit(cls, value: Any) -> Any:
        return {} if value is None else value


class ReportSettings(SettingsGroup):
    """The content of the report and its output formats."""

    name: str = Field(description="name of the choice")
    title: str = Field("Which quantization should I deploy?", description="heading of the report")
    recorded: bool = Field(
        False, description="show all results of the model in outputs, whatever their settings and machine"
    )
    constraints: ConstraintSettings = Field(
        ConstraintSettings(), description="constraints of the deployment; null: not constrained"
    )
    objective: Literal["throughput", "tpot", "size"] = Field(
        "throughput",
        description="quantity to optimize: throughput at the headline load, time per output token of a request "
        "alone, or checkpoint size",
    )
    margin_points: PositiveFloat | dict[str, PositiveFloat] | None = Field(
        None,
        description="loss of accuracy, in points, that still counts as no worse: for all tasks or by task; null: 1, "
        "or more where the task's set is too small to show it",
    )
    margin_percent: PositiveFloat = Field(1, description="loss of speed, in percent, that still counts as no worse")
    what_if: tuple[GpuSetting, ...] = Field(
        ("RTX 4090", "A100 80GB SXM", "H100 SXM"),
        validate_default=True,
        description="GPUs for roofline predictions, as in hardware.gpu",
    )
    runs: tuple[Path, ...] = Field(
        (), description="earlier runs to compare with, oldest first: report.json files or outputs folders"
    )
    baseline: Path | None = Field(
        None, description="run that stage=gate compares this one with: report.json or outputs folder"
    )
    fail_on_undecided: bool = Field(
        False, description="stage=gate also fails (exit code 1) where a change for the worse is not ruled out"
    )
    junit: Path | None = Field(None, description="JUnit XML that stage=gate writes, for a CI; null: none")
    job_summary: Path | None = Field(
        None, description="Markdown file that stage=gate appends its result to, e.g. $GITHUB_STEP_SUMMARY; null: none"
    )
    tolerance_percent: NonNegativeFloat = Field(
        2, description="change of speed or size between sessions, in percent, that counts as no change"
    )
    mlflow: str | None = Field(
        None, description="MLflow tracking URI to log to, e.g. file:./mlruns; null: MLflow is not imported"
    )
    formats: tuple[Literal["html", "md", "csv", "json", "png"], ...] = Field(
        ("html", "md", "csv", "json"), description="files to write; png: one file per chart, under charts/"
    )
    json_line: bool | None = Field(
        None, description="end standard output with the result as one line of JSON; null: if it is not a terminal"
    )

    @field_validator("mlflow")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        if value is not None and WITH_A_USER.search(value):
            raise ValueError(NO_CREDENTIALS)
        return value
