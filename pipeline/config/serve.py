"""`conf/serve`: the vLLM server."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.credentials import IN_AN_ADDRESS, KEY_ARGUMENT, NO_CREDENTIALS, NO_KEY, NO_VARIABLE
from pipeline.config.names import unknown
from pipeline.hardware.vllm_kernels import TITLES

URL = re.compile(
    r"(?P<scheme>https?://)?(?P<host>(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d+)?)(?P<path>(?:/+[\w.~%-]+)*?)(?:/+v1)?/*"
)
# Of the API itself: what belongs to the address ends before them.
ENDPOINTS = ("/chat", "/completions", "/models")
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Arguments of vLLM's that settings stand for, so that it is known how many GPUs serve.
PARALLEL = {
    "--tensor-parallel-size": "tensor_parallel",
    "-tp": "tensor_parallel",
    "--data-parallel-size": "data_parallel",
    "-dp": "data_parallel",
}


def parallel_options(tensor: int, data: int) -> dict[str, int | None]:
    """Return vLLM's options for these numbers of GPUs and copies; None for one, its default."""
    given = {"--tensor-parallel-size": tensor, "--data-parallel-size": data}
    return {option: None if number == 1 else number for option, number in given.items()}


class ServeSettings(SettingsGroup):
    """Options of the vLLM server; a new one is started for each variant."""

    name: str = Field(description="name of the choice")
    url: str | None = Field(None, description="http://host:port of a running OpenAI-compatible server; null: start one")
    model: str | None = Field(None, description="model of that server, if it has several; null: the only one")
    api_key_env: str | None = Field(
        None, description="environment variable that holds that server's key; the key itself is stored nowhere"
    )
    python: str | None = Field(None, description="Python interpreter with vLLM installed; null: this one")
    host: Literal["127.0.0.1", "localhost"] = Field(
        "127.0.0.1", description="address that servers listen on, local only"
    )
    port: int | None = Field(None, ge=1, le=65535, description="port that servers listen on; null: a free one")
    start_timeout_s: PositiveFloat = Field(600, description="seconds after which a start has failed")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="precision of unquantized tensors, vLLM's --dtype; auto: the checkpoint's"
    )
    kernel: str = Field(
        "auto",
        description="kernel of the quantized layers, vLLM's --linear-backend (docs/formats.md); auto: vLLM's choice",
    )
    tensor_parallel: PositiveInt = Field(1, description="GPUs that share each weight; of one variant: bf16@tp2")
    data_parallel: PositiveInt = Field(
        1, description="copies of the model, each on GPUs and with requests of its own; of one variant: bf16@dp2"
    )
    max_model_len: PositiveInt | None = Field(None, description="context length in tokens; null: the model's")
    max_num_seqs: PositiveInt | None = Field(None, description="sequences in a batch; null: vLLM's default")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory that vLLM may take")
    cpu_kv_cache_gib: PositiveFloat = Field(1, description="KV-cache memory on a CPU, GiB")
    cpu_cores: str = Field("auto", description="CPU cores of the engine on a CPU, e.g. 0-3; auto: all")
    enforce_eager: bool | None = Field(
        None,
        description="disable torch.compile and CUDA graphs; null: true on a CPU, where compiling takes minutes",
    )
    prefix_caching: Literal[False] = Field(
        False, description="always false in benchmarks: cached prefixes would change the load"
    )
    extra_args: tuple[str, ...] = Field((), description="further vLLM arguments, passed unchanged")

    @field_validator("url")
    @classmethod
    def _without_path(cls, value: str | None) -> str | None:
        """Return the address as stages use it: with a scheme, without `/v1` and slashes at the end."""
        if value is None:
            return None
        if IN_AN_ADDRESS.search(value):
            raise ValueError(NO_CREDENTIALS)
        found = URL.fullmatch(value.strip())
        if found is None or found["path"].endswith(ENDPOINTS):
            raise ValueError(f"{value} is not the address of a server; write http://host:port")
        return f"{found['scheme'] or 'http://'}{found['host']}{re.sub('/+', '/', found['path'])}"

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not VARIABLE.fullmatch(value):
            raise ValueError(NO_VARIABLE)
        return value

    @field_validator("extra_args")
    @classmethod
    def _without_a_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(KEY_ARGUMENT.match(part) for part in value):
            raise ValueError(NO_KEY)
        return value

    @field_validator("extra_args")
    @classmethod
    def _without_gpus(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in (word for part in value for word in re.split(r"[ =]", part)):
            if setting := PARALLEL.get(word.replace("_", "-")):
                raise ValueError(f"{word} has a setting of its own: serve.{setting}")
        return value

    @field_validator("kernel")
    @classmethod
    def _known_kernel(cls, value: str) -> str:
        if value != "auto" and value not in TITLES:
            raise ValueError(unknown(value, ("auto", *TITLES)))
        return value

    @property
    def gpus(self) -> int:
        """Number of GPUs of a server."""
        return self.tensor_parallel * self.data_parallel
