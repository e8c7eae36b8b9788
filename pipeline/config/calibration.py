"""`conf/calibration`: the data that the BF16 model reads before quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.dataset import DatasetSettings


class CalibrationSet(DatasetSettings):
    """Conversations to calibrate with: a local file, a file on the hub, or a split that `datasets` loads."""

    subset: str | None = Field(None, description="configuration of the hub data set")
    split: str | None = Field(
        None, description="split of the hub data set, as `datasets` loads it, instead of hub_file"
    )
    columns: dict[str, str] = Field(
        {}, description="column names by meaning, where the data set uses others, e.g. {prompt: instruction}"
    )
    weight: PositiveFloat = Field(1, description="share of the samples relative to the other sets of a mix")

    @field_validator("columns")
    @classmethod
    def _known_meanings(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("conversations", "messages", "prompt", "response", "text")
        if unknown := [meaning for meaning in value if meaning not in known]:
            raise ValueError(f"{', '.join(unknown)}: the meaning of a column is one of {', '.join(known)}")
        return value

    def _names_data(self) -> bool:
        return self.hub_file is not None or self.split is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and split (or hub_file)"


class CalibrationSettings(SettingsGroup):
    """The data that the BF16 model reads, and how ranges are computed from its activations."""

    name: str = Field(description="name of the choice")
    dataset: CalibrationSet = Field(description="conversations that samples are taken from")
    mix: dict[str, CalibrationSet] = Field(
        {}, description="further sets by any name, e.g. {chinese: {path: zh.jsonl, weight: 0.5}}"
    )
    num_samples: PositiveInt = Field(200, description="conversations forwarded")
    algorithm_samples: PositiveInt | None = Field(
        None, description="how many of them GPTQ, AWQ and SmoothQuant read; null: all"
    )
    min_seq_length: PositiveInt = Field(1, description="conversations with fewer tokens are skipped")
    max_seq_length: PositiveInt = Field(2048, description="tokens kept of a conversation")
    drop_long: bool = Field(
        False, description="skip conversations longer than max_seq_length instead of truncating them"
    )
    apply_chat_template: bool = Field(True, description="format conversations as in deployment; false: raw text")
    enable_thinking: bool | None = Field(
        None, description="Qwen3's thinking mode, as in deployment; null: the template's default"
    )
    seed: int = Field(0, description="seed of the sampling")
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = Field(
        "minmax", description="how ranges are computed from the observed values; changing it re-runs nothing"
    )
    percentile: float = Field(
        99.99, gt=0, le=100, description="percent of the magnitudes that observer=percentile keeps"
    )
    averaging_constant: float = Field(0.01, gt=0, le=1, description="weight of a new sample in observer=moving_average")
    histogram_tokens: PositiveInt | None = Field(
        512, description="evenly spaced tokens of a conversation that enter histograms; null: all"
    )
    tolerance: float = Field(0.01, gt=0, lt=1, description="relative change of a range that still counts as stable")
    layerwise: Literal["auto", "always", "never"] = Field(
        "auto", description="keep one decoder layer in memory at a time; auto: where the model does not fit"
    )
    batch_size: PositiveInt | None = Field(
        None,
        description="conversations that pass the model together, padded behind; null: as many as have 8192 tokens on a "
        "GPU, one on a CPU",
    )
    overlap_ngram: PositiveInt = Field(
        13, description="consecutive words that count as an overlap of calibration and evaluation"
    )
    max_overlap: float = Field(0.01, ge=0, le=1, description="largest share of an evaluation's items that may overlap")
    allow_contamination: bool = Field(False, description="continue with a set that overlaps more")
    artifact: Path | None = Field(None, description="folder of a finished calibration to use instead of making one")

    @property
    def sets(self) -> dict[str, CalibrationSet]:
        """Every set of the mix, by the name of its setting."""
        return {"dataset": self.dataset, **{f"mix.{name}": each for name, each in self.mix.items()}}
