"""The base class of every group of settings, and the stages and commands that settings name."""

from __future__ import annotations

from enum import StrEnum

from pydantic import (
    BaseModel,
    ConfigDict,
)


class Stage(StrEnum):
    """The stages that make artifacts, in the order of the data flow."""

    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    VERIFY = "verify"
    BENCH = "bench"
    EVAL = "eval"


class Command(StrEnum):
    """The commands that `stage` accepts besides stages; a command reads artifacts and makes none."""

    REPORT = "report"
    GATE = "gate"
    PUBLISH = "publish"
    CAPABILITIES = "capabilities"


class SettingsGroup(BaseModel):
    """A group of settings: immutable, unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
