"""Results of `eval`: the figure of each task, the divergence from BF16, and the output error of each layer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from pipeline.results.base import Frozen, Missing, Name, Result
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean

FilterName = Annotated[str, AfterValidator(lambda value: clean(value, 40))]


class TaskResult(Frozen):
    """Score of one task: a mean over its items.

    Attributes:
        task: lm-eval's name of the task.
        metric: metric of an item, from 0 to 1.
        filter: lm-eval's filter that the metric applies to.
        value: mean of the metric.
        stderr: standard error of the mean; None for a single item.
        n: items scored.
        asked: items drawn of those `available`; `n` if an early release omits it.
        filters: score under each filter of the task.
        asked_once: questions whose options were scored by one request.
        asked_by_echo: requests that echoed a prompt with an option.
        generated: requests that generated text.
        truncated: prompts that exceeded the context.
        unfinished: answers that reached the token limit.
        asked_again: greedy answers that were requested twice; `differing` of them changed.
    """

    task: Name
    metric: Name
    filter: str = "none"
    value: float
    stderr: float | None = None
    n: int
    asked: int
    available: int | None = None
    filters: dict[FilterName, float] = Field({})
    asked_once: int = 0
    asked_by_echo: int = 0
    generated: int = 0
    truncated: int = 0
    unfinished: int = 0
    asked_again: int = 0
    differing: int = 0

    @model_validator(mode="before")
    @classmethod
    def _all_were_asked(cls, content: object) -> object:
        return {"asked": content["n"], **content} if isinstance(content, dict) and "n" in content else content


class DivergenceResult(Frozen):
    """Log-probabilities of held-out text: `file`, and `file_again` if requested twice."""

    file: str
    file_again: str | None = None
    sequences: int | None = None
    tokens: int
    top_k: int | None = None
    perplexity: float | None = None
    seconds: float | None = None


class LayerError(Frozen):
    """A quantized layer's output error against BF16 in decibels; `weights_db` with the inputs as they are."""

    module: str
    snr_db: float
    weights_db: float


class LayerErrors(Frozen):
    """Output errors of all quantized layers, the five worst first; `file` has every one.

    `activations` says whether the inputs were rounded as the format rounds them; `unrouted` counts Linears of experts
    that none of the tokens was sent to.
    """

    file: str
    tokens: int
    modules: int
    unrouted: int = 0
    activations: str
    median_db: float
    worst: tuple[LayerError, ...]


class EvalResult(Result):
    """An evaluation.

    Attributes:
        tasks: by the label of the settings.
        sizes: items of each task, of which a share may have been asked.
        server: facts of the server that answered.
        seconds: duration of each task.
        recalled: answers reused from an interrupted run.
        isolation: what isolated the programs of each task that runs what the model wrote (`bubblewrap`, `namespaces`,
            or `none`).
        divergence: divergence from BF16, if requested.
        layers: output errors of the layers, if requested; the reason if this format cannot be decoded.
    """

    SOURCE: ClassVar[str] = "the manifest of the scores"

    tasks: dict[str, TaskResult]
    sizes: dict[str, int] = Field({})
    server: ServerFacts = ServerFacts()
    seconds: dict[str, float] = Field({})
    recalled: int = 0
    isolation: dict[str, str] = Field({})
    divergence: DivergenceResult | None = None
    layers: LayerErrors | Missing | None = None
