"""`conf/eval`: the evaluation tasks and their scoring."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.config.dataset import DatasetSettings

# Conversations of the screen of a study with a budget.
SCREENED = 16


class TaskSettings(SettingsGroup):
    """One lm-eval task and the metric that the report shows."""

    task: str = Field(description="task name in lm-eval")
    metric: str = Field(description="lm-eval metric that the report shows")
    filter: str = Field("none", description="lm-eval filter applied to answers before scoring")
    num_fewshot: NonNegativeInt | None = Field(
        None, description="worked examples before the question; null: the task's default"
    )


class DivergenceSettings(SettingsGroup):
    """The held-out text on which next-token distributions of a variant and BF16 are compared."""

    dataset: DatasetSettings = Field(description="held-out conversations, a data set as in bench.dataset")
    num_sequences: PositiveInt = Field(description="conversations, each one sequence")
    max_seq_length: int = Field(ge=2, description="tokens kept of a conversation")
    top_k: PositiveInt = Field(20, description="log-probabilities per token; vLLM allows 20, more with --max-logprobs")
    layer_tokens: PositiveInt | None = Field(
        256, description="tokens on which the output error of each quantized layer is measured; null: not measured"
    )
    seed: int = Field(0, description="seed of the sampling")


class EvalSettings(SettingsGroup):
    """The tasks for a served checkpoint, and how answers are scored."""

    name: str = Field(description="name of the choice")
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="tasks by the label of their column in the report")
    include_path: Path | None = Field(None, description="folder of further lm-eval task files")
    data_dir: Path | None = Field(
        None,
        description="folder with mmlu/, ceval/, gsm8k/, humaneval/ as published by their authors; null: from the hub",
    )
    limit: PositiveInt | None = Field(
        None, description="items per task, a seeded sample stratified by subject; null: all"
    )
    share: float = Field(
        1.0, ge=0, le=1, description="share of those items that is asked, by subject; a larger share has the smaller's"
    )
    budget_minutes: PositiveFloat | None = Field(
        None,
        description="minutes for the evaluations of all variants: a little of the held-out text for each, then items "
        "only of those that may still be the answer; null: all items of all",
    )
    chat_template: bool = Field(False, description="apply the model's chat template, with examples as turns")
    enable_thinking: bool | None = Field(None, description="Qwen3's thinking mode; null: the template's default")
    num_concurrent: PositiveInt = Field(16, description="requests in flight")
    prefix_caching: bool = Field(
        True, description="reuse the KV cache of few-shot examples; needs a server separate from the benchmark's"
    )
    max_gen_toks: PositiveInt = Field(256, description="new tokens where a task sets no limit; lm-eval's default")
    max_reply_toks: PositiveInt | None = Field(
        None, description="new tokens of any answer at most; null: as many as the task allows"
    )
    seed: int = Field(0, description="seed of the samples and of the examples")
    code_timeout_s: PositiveFloat = Field(5, description="CPU seconds that a generated program may use")
    unsafe_code: bool = Field(False, description="run generated programs even if this machine cannot isolate them")
    divergence: DivergenceSettings | None = Field(
        None, description="KL divergence from BF16 on held-out text; null: not measured"
    )

    @property
    def screen(self) -> EvalSettings:
        """The divergence on a few conversations and no item, to see which variants a study with a budget scores."""
        few = {"num_sequences": min(SCREENED, self.divergence.num_sequences)} if self.divergence else {}
        # The benchmark's server does: it has no prefix cache, and held-out texts share no prefix.
        return self._without_layers(few).model_copy(update={"share": 0.0, "prefix_caching": False})

    def of_share(self, share: float) -> EvalSettings:
        """Return these settings for a share of the items, without the errors of layers, which the whole has."""
        return self._without_layers({}).model_copy(update={"share": share})

    def _without_layers(self, changes: dict[str, int]) -> EvalSettings:
        text = self.divergence and self.divergence.model_copy(update={**changes, "layer_tokens": None})
        return self.model_copy(update={"divergence": text})

    @model_validator(mode="after")
    def _screens_by_the_divergence(self) -> EvalSettings:
        if self.budget_minutes is not None and self.divergence is None:
            raise ValueError(
                f"budget_minutes={self.budget_minutes:g} needs the divergence, which tells first which variants are "
                "far from BF16: set divergence, e.g. by eval=study"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> EvalSettings:
        if self.enable_thinking is not None and not self.chat_template:
            raise ValueError(
                f"enable_thinking={self.enable_thinking} is a chat-template option: set chat_template=true"
            )
        return self
