"""Results of a mix of formats: the sensitivities that it is chosen by, and the choice, `mix.json` of a checkpoint."""

from __future__ import annotations

from typing import ClassVar

from pipeline.results.base import Frozen, Result


class Sensitivities(Result):
    """Effect on the model's predictions of rounding each group of Linears alone.

    Attributes:
        tokens: of the calibration, that the predictions follow.
        kl: by group and scheme, KL divergence from BF16 in nats per token.
    """

    SOURCE: ClassVar[str] = "the file of sensitivities"

    tokens: int
    kl: dict[str, dict[str, float]]


class GroupChoice(Frozen):
    """A group of Linears that vLLM loads as one, and its format.

    Attributes:
        name: of the first Linear, or of the experts' module.
        layer: number of the decoder layer.
        modules: the Linears.
        weights: number of their weights.
        format: the scheme that was chosen; BF16 if it is not rounded.
        bytes: of the group's tensors in that format.
        kl: its sensitivity, in nats per token.
        sensitivities: of all schemes that it could have.
    """

    name: str
    layer: int
    modules: tuple[str, ...]
    weights: int
    format: str
    bytes: int
    kl: float
    sensitivities: dict[str, float]


class Mix(Result):
    """A choice of formats within a budget.

    Attributes:
        budget: the setting that it was chosen by, with its value.
        bits: average bits of the decoder's weights, with their scales.
        kl: predicted KL divergence from BF16 in nats per token, the sum of the groups' sensitivities.
        tokens: that the sensitivities were measured on.
        groups: in the order of the layers.
    """

    SOURCE: ClassVar[str] = "mix.json"

    budget: str
    bits: float
    kl: float
    tokens: int
    groups: tuple[GroupChoice, ...]
