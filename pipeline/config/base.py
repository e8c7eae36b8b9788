"""The base class of every group of settings, and the stages and commands that settings name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline.config.names import types_of


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
    """A group of settings: immutable, unknown names are errors; a list of one element may be written as that."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _as_people_write(cls, given: Any) -> Any:
        """Take one element for a list of it, and `~` for the user's folder."""
        if not isinstance(given, dict):
            return given
        return {
            name: _as_written(cls.model_fields[name], value) if name in cls.model_fields else value
            for name, value in given.items()
        }


def _as_written(field: FieldInfo, value: Any) -> Any:
    kinds = list(types_of(field.annotation))
    if any(get_origin(kind) is tuple for kind in kinds) and isinstance(value, (str, int, float)):
        value = (value,)
    if Path not in kinds:
        return value
    return [_expanded(each) for each in value] if isinstance(value, (list, tuple)) else _expanded(value)


def _expanded(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) and value.startswith("~") else value
