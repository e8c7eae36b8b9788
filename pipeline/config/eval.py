"""`conf/eval`: what is asked, and how."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.config.base import Section
from pipeline.config.calibration import DatasetSettings


class TaskSettings(Section):
    """One lm-eval task and the figure of it that the report shows."""

    task: str = Field(description="lm-eval's name")
    metric: str
    filter: str = "none"
    num_fewshot: NonNegativeInt | None = Field(None, description="null: the task's own")


class DivergenceSettings(Section):
    """The held-out text on which a variant's next-token distributions are compared with BF16's."""

    dataset: DatasetSettings
    num_sequences: PositiveInt = Field(description="conversations, each one sequence")
    max_seq_length: int = Field(ge=2, description="tokens kept of a conversation")
    top_k: PositiveInt = Field(20, description="log-probabilities a token; vLLM allows 20, more with --max-logprobs")
    layer_tokens: PositiveInt | None = Field(
        256, description="tokens of it on which each quantized layer's output error is taken; null: not measured"
    )
    seed: int = Field(0, description="seed of the sampling")


class EvalSettings(Section):
    """What a served checkpoint is asked, and how answers are scored."""

    name: str
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="column label -> task")
    include_path: Path | None = Field(None, description="folder of further lm-eval task files")
    data_dir: Path | None = Field(None, description="folder with the benchmarks' files; null: from the hub")
    limit: PositiveInt | None = Field(None, description="items of each task, drawn by subject; null: all")
    chat_template: bool = Field(False, description="ask under the model's chat template, examples as turns of it")
    enable_thinking: bool | None = Field(None, description="Qwen3's switch; null: what the template does by itself")
    num_concurrent: PositiveInt = Field(16, description="requests in flight")
    prefix_caching: bool = Field(
        True, description="the examples that questions begin with are computed once; costs a server of its own"
    )
    max_gen_toks: PositiveInt = Field(256, description="new tokens where the task sets none")
    seed: int = 0
    code_timeout_s: PositiveFloat = Field(5, description="seconds of CPU time a generated program may take")
    unsafe_code: bool = Field(False, description="run generated programs even where this machine cannot isolate them")
    divergence: DivergenceSettings | None = Field(None, description="KL divergence from BF16; null: not measured")

    @model_validator(mode="after")
    def _fits_together(self) -> EvalSettings:
        if self.enable_thinking is not None and not self.chat_template:
            raise ValueError(f"enable_thinking={self.enable_thinking} is the template's switch: set chat_template=true")
        return self
