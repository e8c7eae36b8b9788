"""Results of `quantize`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.results.base import Result
from pipeline.results.mix import Mix


class QuantizeResult(Result):
    """A finished checkpoint.

    Attributes:
        cast_from: type that the model's weights came in, if they were cast to BF16 first.
        engine: versions of the packages of an engine with an environment of its own.
        kv_scales: scales of the KV cache that were added.
        bytes: of all weight files.
        quantized_layers: modules with a weight scale.
        format: as config.json names it; `bf16` where nothing is quantized.
        ignore: modules that were left alone.
        rounded_experts: experts of a mixture that an engine with data rounded to nearest, as no token was sent to them.
        mix: the choice of formats, if it has several.
        peak_gpu_bytes: the most GPU memory in use while it was made.
    """

    SOURCE: ClassVar[str] = "the checkpoint's manifest"

    cast_from: str = ""
    engine: dict[str, str] = Field({})
    kv_scales: int | None = None
    bytes: int
    quantized_layers: int
    format: str = ""
    ignore: tuple[str, ...] = ()
    rounded_experts: tuple[str, ...] = ()
    mix: Mix | None = None
    peak_gpu_bytes: int | None = None
