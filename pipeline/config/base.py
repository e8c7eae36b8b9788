"""What every group of settings is made of, and the stages that settings name."""

from __future__ import annotations

from enum import StrEnum

from pydantic import (
    BaseModel,
    ConfigDict,
)


class Stage(StrEnum):
    """The stages that make artifacts, in the order in which data flows."""

    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    VERIFY = "verify"
    BENCH = "bench"
    EVAL = "eval"


class Command(StrEnum):
    """What can be asked for beside stages; a command reads artifacts and makes none."""

    REPORT = "report"
    GATE = "gate"
    PUBLISH = "publish"
    CAPABILITIES = "capabilities"


class Section(BaseModel):
    """A group of settings: no other names, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
