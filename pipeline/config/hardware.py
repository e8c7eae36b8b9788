"""`conf/hardware`: the machine, where it should not be probed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
)

from pipeline.config.base import Section
from pipeline.hardware.gpus import GPUS, gpu_of


def _in_catalogue(name: str) -> str:
    """The catalogue's name of a GPU, whether it was called `H100 SXM` or `h100_sxm`."""
    gpu = gpu_of(name)
    if gpu is None:
        raise ValueError(f"{name}: the catalogue has no GPU of that name, but {', '.join(gpu.key for gpu in GPUS)}")
    return gpu.name


GpuName = Annotated[str, AfterValidator(_in_catalogue)]


class HardwareSettings(Section):
    """The machine, where it should not be probed."""

    name: str = Field(description="name of the choice")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device to run on; auto: a GPU where there is one"
    )
    gpu: GpuName | None = Field(
        None, description="GPU of pipeline/hardware/gpus.py that need not be here, e.g. h100_sxm: what could it serve?"
    )
