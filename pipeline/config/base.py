"""What every group of settings is made of, and the stages that settings name."""

from __future__ import annotations

from enum import StrEnum

from pydantic import (
    BaseModel,
    ConfigDict,
)


class Stage(StrEnum):
    """The stages in the order in which data flows; capabilities stands beside them and makes no artifact.

    `all` ends with the report: what others shall download is published when somebody asks for it.
    """

    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    VERIFY = "verify"
    BENCH = "bench"
    EVAL = "eval"
    REPORT = "report"
    GATE = "gate"
    PUBLISH = "publish"
    CAPABILITIES = "capabilities"


# What stands beside the flow of data and makes no artifact.
ASIDE = (Stage.GATE, Stage.PUBLISH, Stage.CAPABILITIES)


class Section(BaseModel):
    """A group of settings: no other names, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
