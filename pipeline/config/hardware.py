"""`conf/hardware`: overrides of the probed hardware."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveInt,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.names import unknown
from pipeline.hardware.gpus import GPUS, Gpu, named

OWN_GPU = "{name: ..., compute_capability: ..., memory_mib: ..., bandwidth_gb_s: ...}"


def _in_catalogue(given: Any) -> Any:
    """Return the catalogue's GPU, however people write it: `H100 SXM`, `h100_sxm`, `RTX4090`, `4090`; a mapping as is.

    A number alone is one in YAML.
    """
    if not isinstance(given, (str, int)):
        return given
    found = named(str(given))
    if len(found) > 1:
        raise ValueError(f"{given} is several GPUs: {', '.join(gpu.key for gpu in found)}")
    if not found:
        raise ValueError(f"{unknown(str(given), [gpu.key for gpu in GPUS])}. One that is not listed is {OWN_GPU}")
    return found[0]


GpuSetting = Annotated[Gpu, BeforeValidator(_in_catalogue)]


class HardwareSettings(SettingsGroup):
    """Overrides of the probed hardware."""

    name: str = Field(description="name of the choice")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to run on; auto: a GPU if there is one")
    gpu: GpuSetting | None = Field(
        None,
        description="GPU to ask about, installed or not: one of pipeline/hardware/gpus.py, e.g. h100_sxm, or one of "
        "your own as a mapping",
    )
    lanes: PositiveInt | None = Field(
        None,
        description="servers that are measured at the same time, each with GPUs of its own and its share of the cores; "
        "null: as many as there are GPUs for",
    )
    wait_minutes: NonNegativeFloat | None = Field(
        0, description="minutes to wait for a GPU in use; 0: refuse it, null: share it (speeds are then unreliable)"
    )
