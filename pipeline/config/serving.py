"""`conf/serve` and `conf/bench`: how checkpoints are served, and under which loads they are measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipeline.config.base import Section
from pipeline.config.calibration import DatasetSettings
from pipeline.hardware.vllm_kernels import TITLES


class ServeSettings(Section):
    """How vLLM is started; one fresh server for each variant."""

    name: str
    url: str | None = Field(
        None, pattern=r"^https?://[^/\s]+$", description="a server that runs already, http://host:port; null: start one"
    )
    python: str | None = Field(None, description="interpreter that has vLLM; null: this one")
    host: Literal["127.0.0.1", "localhost"] = Field("127.0.0.1", description="servers stay local")
    port: int | None = Field(None, ge=1, le=65535, description="null: a free one")
    start_timeout_s: PositiveFloat = Field(600, description="seconds until a start has failed")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto")
    kernel: str = Field("auto", description="of the quantized layers, vLLM's --linear-backend; auto: its own choice")
    max_model_len: PositiveInt | None = Field(None, description="context in tokens; null: the model's")
    max_num_seqs: PositiveInt | None = Field(None, description="sequences batched; null: vLLM's default")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kv_cache_gib: PositiveFloat = Field(1, description="KV-cache memory on a CPU, GiB")
    cpu_cores: str = Field("auto", description="cores of the engine on a CPU, like 0-3; auto: all")
    enforce_eager: bool | None = Field(
        None,
        description="no torch.compile, no CUDA graphs; null: on a CPU, where compiling takes minutes",
    )
    prefix_caching: Literal[False] = Field(False, description="a warm prefix is not the load measured")
    extra_args: tuple[str, ...] = Field((), description="passed to vLLM as they are")

    @field_validator("kernel")
    @classmethod
    def _known_kernel(cls, value: str) -> str:
        if value != "auto" and value not in TITLES:
            raise ValueError(f"{value}: there is no kernel of that name, but auto, {', '.join(TITLES)}")
        return value


class LadderSettings(Section):
    """Loads from one request at a time up to saturation, instead of a single one."""

    concurrency: tuple[PositiveInt, ...] = Field(min_length=1, description="requests in flight, level by level")
    rates: tuple[float, ...] = Field((), description="request rates, as shares of the saturated request throughput")
    prompts_per_slot: PositiveInt = Field(4, description="requests of a level for each one in flight")
    min_prompts: PositiveInt = Field(16, description="requests of the smallest level; num_prompts: of the largest")
    budget_s: PositiveFloat | None = Field(None, description="seconds for all levels; what does not fit is left out")

    @model_validator(mode="after")
    def _rises(self) -> LadderSettings:
        for name in ("concurrency", "rates"):
            levels = getattr(self, name)
            if list(levels) != sorted(set(levels)):
                raise ValueError(f"{name}={list(levels)}: levels must rise")
        if any(not 0 < share <= 1 for share in self.rates):
            raise ValueError(f"rates={list(self.rates)}: shares of the saturated rate lie above 0 and up to 1")
        return self


SLO_METRICS = ("ttft_ms", "tpot_ms", "e2el_ms")


class SloSettings(Section):
    """What a request must meet to count as good; null: that metric may be anything."""

    ttft_ms: PositiveFloat | None = Field(None, description="time to first token, milliseconds")
    tpot_ms: PositiveFloat | None = Field(None, description="time per output token after the first, milliseconds")
    e2el_ms: PositiveFloat | None = Field(None, description="end-to-end latency, milliseconds")
    percentile: float = Field(99, gt=0, lt=100, description="of requests that must meet it at the highest good rate")
    probes: NonNegativeInt = Field(6, description="rates tried to find the highest good one; 0: not searched")
    prompts: PositiveInt = Field(200, description="requests of a probe")

    @model_validator(mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        known = (*SLO_METRICS, "percentile", "probes", "prompts")
        if isinstance(value, dict) and (unknown := [name for name in value if name not in known]):
            raise ValueError(f"{', '.join(unknown)}: an SLO is in milliseconds, of {', '.join(SLO_METRICS)}")
        return value

    @property
    def limits(self) -> dict[str, float]:
        """The metrics that are limited, by name, in milliseconds."""
        return {name: limit for name in SLO_METRICS if (limit := getattr(self, name)) is not None}


class BenchSettings(Section):
    """The loads that vLLM's own load generator puts on the server."""

    name: str
    prompts: Literal["sharegpt", "random"] = Field("sharegpt", description="conversations, or random tokens")
    dataset: DatasetSettings
    input_len: PositiveInt | None = Field(None, description="tokens of a random prompt")
    output_len: PositiveInt | None = Field(
        None,
        description="tokens of every reply, no fewer and no more; null: at most those of the conversation's answer",
    )
    num_prompts: PositiveInt = Field(description="requests in a repeat")
    request_rate: float | Literal["inf"] = Field("inf", description="requests per second")
    max_concurrency: PositiveInt | None = Field(None, description="requests in flight; null: no limit")
    ladder: LadderSettings | None = Field(None, description="levels instead of the one load above")
    repeats: PositiveInt = Field(3, description="repeats, each with its own seed")
    warmup_prompts: NonNegativeInt = Field(description="requests in a round of warm-up, before anything is counted")
    warmup_rounds: PositiveInt = Field(5, description="rounds at most, each with other prompts, until it is steady")
    warmup_tolerance: float = Field(0.1, gt=0, lt=1, description="change of throughput that counts as steady")
    seed: int = 0
    temperature: NonNegativeFloat | None = Field(0, description="null: what the checkpoint's generation config says")
    endpoint: Literal["openai", "openai-chat"] = "openai-chat"
    slo: SloSettings = SloSettings()
    timeout_s: PositiveFloat = Field(3600, description="seconds after which a load counts as hung")

    @field_validator("request_rate", mode="before")
    @classmethod
    def _above_zero(cls, value: Any) -> Any:
        if value in ("inf", float("inf")):
            return "inf"
        try:
            if float(value) > 0:
                return float(value)
        except (TypeError, ValueError):
            pass
        raise ValueError(f"{value!r} is no request rate: requests per second above zero, or inf")

    @model_validator(mode="after")
    def _fits_together(self) -> BenchSettings:
        if self.prompts == "random" and (self.input_len is None or self.output_len is None):
            raise ValueError("prompts=random needs input_len and output_len")
        if self.prompts == "sharegpt" and self.input_len is not None:
            raise ValueError(
                f"input_len={self.input_len} goes with prompts=random; conversations have their own length"
            )
        return self
