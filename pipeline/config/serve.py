"""`conf/serve`: how vLLM is started."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from pipeline.config.base import Section
from pipeline.hardware.vllm_kernels import TITLES


class ServeSettings(Section):
    """How vLLM is started; one fresh server for each variant."""

    name: str = Field(description="name of the choice")
    url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+$",
        description="http://host:port of a server that runs already (any OpenAI-compatible one); null: start one",
    )
    python: str | None = Field(None, description="interpreter that has vLLM; null: this one")
    host: Literal["127.0.0.1", "localhost"] = Field(
        "127.0.0.1", description="address that servers listen on, local only"
    )
    port: int | None = Field(None, ge=1, le=65535, description="port that servers listen on; null: a free one")
    start_timeout_s: PositiveFloat = Field(600, description="seconds until a start has failed")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="precision of what is not quantized, vLLM's --dtype; auto: the checkpoint's"
    )
    kernel: str = Field(
        "auto",
        description="kernel of the quantized layers, vLLM's --linear-backend (docs/formats.md); auto: its own choice",
    )
    max_model_len: PositiveInt | None = Field(None, description="context in tokens; null: the model's")
    max_num_seqs: PositiveInt | None = Field(None, description="sequences in a batch; null: vLLM's default")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory that vLLM may take")
    cpu_kv_cache_gib: PositiveFloat = Field(1, description="KV-cache memory on a CPU, GiB")
    cpu_cores: str = Field("auto", description="cores of the engine on a CPU, like 0-3; auto: all")
    enforce_eager: bool | None = Field(
        None,
        description="no torch.compile, no CUDA graphs; null: true on a CPU, where compiling takes minutes",
    )
    prefix_caching: Literal[False] = Field(
        False, description="always false while loads are measured: a warm prefix is not the load"
    )
    extra_args: tuple[str, ...] = Field((), description="arguments passed to vLLM as they are")

    @field_validator("kernel")
    @classmethod
    def _known_kernel(cls, value: str) -> str:
        if value != "auto" and value not in TITLES:
            raise ValueError(f"{value}: there is no kernel of that name, but auto, {', '.join(TITLES)}")
        return value
