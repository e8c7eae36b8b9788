"""`conf/calibration`, and the data sets that other groups name, too."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipeline.config.base import Section


class DatasetSettings(Section):
    """A file of conversations: local, or one file of a hub data set."""

    path: Path | None = Field(None, description="local JSON, JSONL or text file; wins over hub_id")
    hub_id: str | None = Field(None, description="Hugging Face hub data set id")
    hub_file: str | None = Field(None, description="file inside the hub data set")
    revision: str | None = Field(None, description="pinned hub commit")

    @model_validator(mode="after")
    def _has_source(self) -> DatasetSettings:
        if self.path is None and (self.hub_id is None or not self._names_data()):
            raise ValueError(self._missing())
        return self

    def _names_data(self) -> bool:
        return self.hub_file is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and hub_file"


class CalibrationSet(DatasetSettings):
    """Conversations to calibrate with: a local file, a file on the hub, or a split that `datasets` loads."""

    subset: str | None = Field(None, description="configuration of the hub data set")
    split: str | None = Field(None, description="split of the hub data set, instead of hub_file")
    columns: dict[str, str] = Field({}, description="what the data set's columns are: meaning -> its name there")
    weight: PositiveFloat = Field(1, description="share of the samples, against the other sets of a mix")

    @field_validator("columns")
    @classmethod
    def _known_meanings(cls, value: dict[str, str]) -> dict[str, str]:
        known = ("conversations", "messages", "prompt", "response", "text")
        if unknown := [meaning for meaning in value if meaning not in known]:
            raise ValueError(f"{', '.join(unknown)}: a column means one of {', '.join(known)}")
        return value

    def _names_data(self) -> bool:
        return self.hub_file is not None or self.split is not None

    def _missing(self) -> str:
        return "set path (a local file), or hub_id and split (or hub_file)"


class CalibrationSettings(Section):
    """What the BF16 model is shown, and how ranges are computed from what it does."""

    name: str
    dataset: CalibrationSet
    mix: dict[str, CalibrationSet] = Field({}, description="further sets, each with its weight")
    num_samples: PositiveInt = Field(200, description="conversations forwarded")
    algorithm_samples: PositiveInt | None = Field(
        None, description="of these, shown to GPTQ, AWQ and SmoothQuant; null: all"
    )
    min_seq_length: PositiveInt = Field(1, description="tokens below which a conversation is left out")
    max_seq_length: PositiveInt = Field(2048, description="tokens kept of a conversation")
    drop_long: bool = Field(False, description="leave out what is longer than max_seq_length instead of cutting it")
    apply_chat_template: bool = Field(True, description="as in deployment; false: the texts as they are")
    enable_thinking: bool | None = Field(None, description="Qwen3's switch; null: what the template does by itself")
    seed: int = Field(0, description="seed of the sampling")
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = Field(
        "minmax", description="technique that makes ranges of what was observed"
    )
    percentile: float = Field(99.99, gt=0, le=100, description="of the magnitudes, kept by observer=percentile")
    averaging_constant: float = Field(0.01, gt=0, le=1, description="weight of a new sample in the moving average")
    histogram_tokens: PositiveInt | None = Field(
        512, description="tokens of a conversation that enter histograms, evenly spaced; null: all"
    )
    tolerance: float = Field(0.01, gt=0, lt=1, description="relative change of a range that still counts as stable")
    layerwise: Literal["auto", "always", "never"] = Field(
        "auto", description="one decoder layer in memory at a time; auto: where the model does not fit"
    )
    overlap_ngram: PositiveInt = Field(13, description="words that calibration and evaluation may not share in a row")
    max_overlap: float = Field(0.01, ge=0, le=1, description="share of an evaluation's items that may overlap")
    allow_contamination: bool = Field(False, description="go on with a set that overlaps more")
    artifact: Path | None = Field(None, description="folder of a finished calibration to use instead")

    @property
    def sets(self) -> dict[str, CalibrationSet]:
        """Every set of the mix by the name of its setting."""
        return {"dataset": self.dataset, **{f"mix.{name}": each for name, each in self.mix.items()}}
