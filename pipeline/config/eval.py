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
from pipeline.config.dataset import DatasetSettings


class TaskSettings(Section):
    """One lm-eval task and the figure of it that the report shows."""

    task: str = Field(description="lm-eval's name of the task")
    metric: str = Field(description="lm-eval's name of the metric that the report shows")
    filter: str = Field("none", description="lm-eval's name of the filter that answers pass before they are scored")
    num_fewshot: NonNegativeInt | None = Field(
        None, description="worked examples before the question; null: the task's own number"
    )


class DivergenceSettings(Section):
    """The held-out text on which a variant's next-token distributions are compared with BF16's."""

    dataset: DatasetSettings = Field(description="held-out conversations, a data set as in bench.dataset")
    num_sequences: PositiveInt = Field(description="conversations, each one sequence")
    max_seq_length: int = Field(ge=2, description="tokens kept of a conversation")
    top_k: PositiveInt = Field(20, description="log-probabilities a token; vLLM allows 20, more with --max-logprobs")
    layer_tokens: PositiveInt | None = Field(
        256, description="tokens of the text on which each quantized layer's output error is taken; null: not measured"
    )
    seed: int = Field(0, description="seed of the sampling")


class EvalSettings(Section):
    """What a served checkpoint is asked, and how answers are scored."""

    name: str = Field(description="name of the choice")
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="tasks by the label of their column in the report")
    include_path: Path | None = Field(None, description="folder of further lm-eval task files")
    data_dir: Path | None = Field(
        None,
        description="folder with mmlu/, ceval/, gsm8k/, humaneval/ as their authors publish them; null: from the hub",
    )
    limit: PositiveInt | None = Field(
        None, description="items of each task, a seeded sample with every subject's share; null: all"
    )
    chat_template: bool = Field(False, description="ask under the model's chat template, examples as turns of it")
    enable_thinking: bool | None = Field(None, description="Qwen3's switch; null: what the template does by itself")
    num_concurrent: PositiveInt = Field(16, description="requests in flight")
    prefix_caching: bool = Field(
        True, description="compute the examples before questions once; costs a server beside the benchmark's"
    )
    max_gen_toks: PositiveInt = Field(256, description="new tokens where a task sets no number; lm-eval's own default")
    seed: int = Field(0, description="seed of the samples and of the examples")
    code_timeout_s: PositiveFloat = Field(5, description="seconds of CPU time a generated program may take")
    unsafe_code: bool = Field(False, description="run generated programs even where this machine cannot isolate them")
    divergence: DivergenceSettings | None = Field(
        None, description="KL divergence from BF16 on held-out text; null: not measured"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> EvalSettings:
        if self.enable_thinking is not None and not self.chat_template:
            raise ValueError(f"enable_thinking={self.enable_thinking} is the template's switch: set chat_template=true")
        return self
