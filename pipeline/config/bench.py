"""`conf/bench`: the loads under which served checkpoints are measured."""

from __future__ import annotations

import math
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

from pipeline.config.base import SettingsGroup
from pipeline.config.dataset import DatasetSettings


class LadderSettings(SettingsGroup):
    """Loads from one request at a time up to saturation, instead of a single load."""

    concurrency: tuple[PositiveInt, ...] = Field(min_length=1, description="requests in flight, level by level")
    rates: tuple[float, ...] = Field(
        (), description="request rates, as shares of the highest request throughput that BF16's levels reached"
    )
    level_s: PositiveFloat = Field(
        60, description="seconds of a level or rate that are analysed; its ramp and drain come on top"
    )
    min_prompts: PositiveInt = Field(32, description="requests of a level or rate at least")
    budget_s: PositiveFloat | None = Field(
        None, description="seconds for all levels of a variant, later ones are skipped; null: no limit"
    )

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


class SloSettings(SettingsGroup):
    """The limits of a good request; null: no limit on that metric."""

    ttft_ms: PositiveFloat | None = Field(None, description="time to the first token, ms")
    tpot_ms: PositiveFloat | None = Field(None, description="time per output token after the first, ms")
    e2el_ms: PositiveFloat | None = Field(None, description="end-to-end latency, ms")
    percentile: float = Field(
        99, gt=0, lt=100, description="percent of requests that must meet the limits at the highest good rate"
    )
    probes: NonNegativeInt = Field(20, description="probes of the search for the highest good rate at most; 0: none")
    probe_s: PositiveFloat = Field(
        60, description="seconds of a probe at least; it lasts ten times the P99 end-to-end latency if that is longer"
    )
    prompts: PositiveInt = Field(200, description="requests of a probe that are analysed at least")
    resolution: float = Field(
        0.1, gt=0, lt=1, description="relative width of the bracket at which the search stops to refine it"
    )

    @model_validator(mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        known = tuple(cls.model_fields)
        if isinstance(value, dict) and (unknown := [name for name in value if name not in known]):
            raise ValueError(f"{', '.join(unknown)}: an SLO is in milliseconds, of {', '.join(SLO_METRICS)}")
        return value

    @model_validator(mode="after")
    def _percentile_has_requests(self) -> SloSettings:
        # Of fewer, the percentile is beyond the largest value.
        least = math.ceil(round(100 / (100 - self.percentile), 6))
        if self.prompts < least:
            raise ValueError(f"prompts={self.prompts}: P{self.percentile:g} needs at least {least} requests")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by metric, in milliseconds."""
        return {name: limit for name in SLO_METRICS if (limit := getattr(self, name)) is not None}


class BenchSettings(SettingsGroup):
    """The loads that vLLM's load generator sends to the server."""

    name: str = Field(description="name of the choice")
    prompts: Literal["sharegpt", "random"] = Field(
        "sharegpt", description="sharegpt: conversations of the data set; random: input_len random tokens"
    )
    dataset: DatasetSettings = Field(description="conversations that prompts are sampled from")
    input_len: PositiveInt | None = Field(None, description="tokens of a random prompt; null: with prompts=sharegpt")
    output_len: PositiveInt | None = Field(
        None,
        description="exact tokens of every reply; null: at most as many as the conversation's answer has",
    )
    num_prompts: PositiveInt = Field(1000, description="requests in a repeat")
    request_rate: float | Literal["inf"] = Field("inf", description="requests per second; inf: all at once")
    max_concurrency: PositiveInt | None = Field(None, description="requests in flight; null: no limit")
    ladder: LadderSettings | None = Field(None, description="levels instead of a single load, e.g. bench=ladder")
    repeats: PositiveInt = Field(3, description="repeats of the load in a block, each with its own seed")
    blocks: PositiveInt = Field(
        1, description="blocks of the benchmark; each starts every variant's server once, in random order"
    )
    warmup_prompts: NonNegativeInt | None = Field(
        None, description="requests in a warm-up round, different from those measured; null: as many as in a repeat"
    )
    warmup_rounds: PositiveInt = Field(
        1, description="discarded rounds of the load; of more than two, none follows once throughput is steady"
    )
    warmup_tolerance: float = Field(
        0.05, gt=0, lt=1, description="relative rise of throughput per warm-up round that must be ruled out"
    )
    seed: int = Field(0, description="seed of the first repeat's prompts, and of the order of variants in a block")
    temperature: NonNegativeFloat | None = Field(
        0, description="sampling temperature, 0: greedy; null: what the checkpoint's generation config says"
    )
    endpoint: Literal["openai", "openai-chat"] = Field(
        "openai-chat", description="openai: completions, the raw prompt; openai-chat: the chat template applied"
    )
    slo: SloSettings = Field(
        SloSettings(), description="limits of a request; goodput counts requests that meet all of them"
    )
    timeout_s: PositiveFloat = Field(3600, description="seconds after which a load counts as hung")
    budget_minutes: PositiveFloat | None = Field(
        None,
        description="minutes for the benchmarks of all variants: one repeat of each, then blocks only of those that "
        "may still be the answer; null: all blocks of all",
    )

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
        raise ValueError(f"{value!r} is not a request rate: requests per second above zero, or inf")

    @property
    def screen(self) -> BenchSettings:
        """One repeat of the load, to see which variants a study with a budget measures further."""
        return self.model_copy(
            update={"repeats": 1, "warmup_rounds": 1, "slo": self.slo.model_copy(update={"probes": 0})}
        )

    @model_validator(mode="after")
    def _divides_one_load(self) -> BenchSettings:
        if self.budget_minutes is not None and self.ladder is not None:
            raise ValueError(
                f"budget_minutes={self.budget_minutes:g}: a ladder is not divided among variants; set ladder=null, or "
                "budget_minutes=null with ladder.budget_s"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> BenchSettings:
        if self.prompts == "random" and (self.input_len is None or self.output_len is None):
            raise ValueError("prompts=random needs input_len and output_len")
        if self.prompts == "sharegpt" and self.input_len is not None:
            raise ValueError(
                f"input_len={self.input_len} goes with prompts=random; conversations have their own length"
            )
        return self
