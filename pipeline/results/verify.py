"""Results of `verify`: the outcome of each check, and what the checks measured."""

from __future__ import annotations

import math
from typing import ClassVar

from pipeline.results.base import Frozen, Result
from pipeline.results.server import ServerFacts

# In order; cheap ones first, so that a broken checkpoint is not served.
CHECKS = (
    "files",
    "layers",
    "size",
    "scales",
    "activation scales",
    "untouched",
    "weights",
    "dequantized reference",
    # Before the variant is loaded: there is room for one server at a time.
    "BF16 reference",
    "loads in vLLM",
    "canary prompts",
    "canary log-probabilities",
)


class Check(Frozen):
    """One check of the gate; `ok` is None if it could not be run."""

    name: str
    ok: bool | None
    detail: str


class CanaryAnswer(Frozen):
    """The served checkpoint's reply to a canary prompt."""

    prompt: str
    answer: str


class PartError(Frozen):
    """A row, group or input channel of a weight, its relative error, and the largest that its format explains."""

    place: str
    error: float
    allowed: float

    @property
    def excess(self) -> float:
        """Error relative to its limit."""
        return _ratio(self.error, self.allowed)


class WeightError(Frozen):
    """Errors of one quantized module against BF16, and the largest that its format explains.

    Attributes:
        error: of the whole weight; `nearest` is that of rounding it to nearest, None in results of earlier releases.
        factor_error: rms deviation from 1 of the factor between groups and their images.
        parts: the row, the group and the input channel that are worst relative to their limits.
    """

    module: str
    error: float
    allowed: float
    nearest: float | None = None
    factor_error: float = 0.0
    allowed_factor_error: float = 0.0
    parts: tuple[PartError, ...] = ()

    @property
    def excess(self) -> float:
        """Largest of the errors relative to its limit: at most 1 if all are within limits."""
        whole = (_ratio(self.error, self.allowed), _ratio(self.factor_error, self.allowed_factor_error))
        return max(*whole, *(part.excess for part in self.parts))


def _ratio(error: float, allowed: float) -> float:
    ratio = error / (allowed or 1e-9)
    return math.inf if math.isnan(ratio) else ratio


class CanaryDistance(Frozen):
    """Distance of fixed texts' log-probabilities from a reference's, and the largest that is explained."""

    distance: float
    allowed: float
    tokens: int


class VerifyResult(Result):
    """The gate's checks up to the first that failed.

    Attributes:
        checks: in the order of `CHECKS`.
        bytes: size of the weight files; `baseline_bytes` of BF16's.
        quantized_layers: modules with a weight scale.
        size_ratio: ratio of the two sizes.
        predicted_bytes: size predicted from the scheme and the shapes.
        weight_errors: errors of each quantized module; None if weights are unchanged or cannot be compared.
        canary: replies to fixed prompts.
        canary_logprobs: distance from BF16.
        canary_kernels: distance from the dequantized weights' answers, by transformers.
        server: that loaded the checkpoint.
    """

    SOURCE: ClassVar[str] = "the gate's manifest"

    checks: tuple[Check, ...] = ()
    bytes: int
    baseline_bytes: int | None = None
    quantized_layers: int | None = None
    size_ratio: float | None = None
    predicted_bytes: int | None = None
    weight_errors: tuple[WeightError, ...] | None = None
    canary: tuple[CanaryAnswer, ...] = ()
    canary_logprobs: CanaryDistance | None = None
    canary_kernels: CanaryDistance | None = None
    server: ServerFacts = ServerFacts()


class CanaryAnswers(Frozen):
    """The tokens of fixed texts and their log-probabilities, one list each: the content of `canary.json`."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class ReferenceResult(Result):
    """The BF16 model as it was served for `canary.json`."""

    SOURCE: ClassVar[str] = "the reference's manifest"

    server: ServerFacts
