"""`conf/hardware`: overrides of the probed hardware."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.names import unknown
from pipeline.hardware.gpus import GPUS, named


def _in_catalogue(name: str) -> str:
    """Return the catalogue's name of a GPU, however people write it: `H100 SXM`, `h100_sxm`, `RTX4090`, `4090`."""
    found = named(name)
    if len(found) > 1:
        raise ValueError(f"{name} is several GPUs: {', '.join(gpu.key for gpu in found)}")
    if not found:
        raise ValueError(unknown(name, [gpu.key for gpu in GPUS]))
    return found[0].name


# A number alone is one in YAML.
GpuName = Annotated[str, BeforeValidator(str), AfterValidator(_in_catalogue)]


class HardwareSettings(SettingsGroup):
    """Overrides of the probed hardware."""

    name: str = Field(description="name of the choice")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to run on; auto: a GPU if there is one")
    gpu: GpuName | None = Field(
        None, description="GPU of pipeline/hardware/gpus.py, installed or not, for stage=capabilities, e.g. h100_sxm"
    )
    wait_minutes: NonNegativeFloat | None = Field(
        0, description="minutes to wait for a GPU in use; 0: refuse it, null: share it (speeds are then unreliable)"
    )
