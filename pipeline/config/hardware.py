"""`conf/hardware`: overrides of the probed hardware."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
)

from pipeline.config.base import SettingsGroup
from pipeline.hardware.gpus import GPUS, gpu_of


def _in_catalogue(name: str) -> str:
    """Return the catalogue's name of a GPU given as `H100 SXM` or `h100_sxm`."""
    gpu = gpu_of(name)
    if gpu is None:
        raise ValueError(f"{name}: unknown GPU; the catalogue has {', '.join(gpu.key for gpu in GPUS)}")
    return gpu.name


GpuName = Annotated[str, AfterValidator(_in_catalogue)]


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
