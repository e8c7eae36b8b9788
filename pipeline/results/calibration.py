"""Results of `calibrate`, and its `summary.json`: statistics of the observed activations, for the report.

The summary may come from another release: unreadable content becomes a reason, and every text in it is cleaned like
any other untrusted text.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.artifacts.keys import Payload, key_of
from pipeline.json_files import parse_json
from pipeline.results.base import Frozen, Missing, Result, other_version
from pipeline.results.text import clean

# The files of a calibration.
TOKENS = "tokens.safetensors"
SKETCHES = "sketches.safetensors"
RANGES = "ranges.safetensors"
SUMMARY = "summary.json"
CARD = "card.md"
# Part of a calibration's payload that lists the evaluations its set was compared with.
CHECKED = "checked_against"
# What the counts of a mixture's experts mean, for the card and the report.
EXPERTS_SHOWN = (
    "Tokens that the BF16 model's router sent to each expert. For ranges, GPTQ, AWQ and SmoothQuant every expert was "
    "shown every token, whatever the router chose: one without tokens of its own rests on those of others. AutoRound "
    "alone shows an expert the tokens of its router, and rounds those without to nearest."
)
Text = Annotated[str, AfterValidator(lambda value: clean(value, 200))]


class CalibrateResult(Result):
    """A finished calibration.

    Attributes:
        conversations: number of conversations.
        tokens: total number of tokens; `tokens_per_second` of the passes.
        layerwise: whether the forward passes ran layer by layer.
        dtype: type of the computation.
        verdict: convergence of each technique's ranges, as a sentence.
        taken_from: folder of the finished calibration that this one copies.
    """

    SOURCE: ClassVar[str] = "the calibration's manifest"

    conversations: int
    tokens: int
    tokens_per_second: float
    layerwise: bool
    dtype: str
    verdict: dict[str, str]
    taken_from: str | None = None


class _Part(Frozen):
    model_config = ConfigDict(allow_inf_nan=False)


class Channel(_Part):
    """A channel and its largest observed magnitude."""

    channel: int
    absmax: float


class Site(_Part):
    """Tensor with a scale; `modules` use the scale."""

    name: Text
    modules: tuple[str, ...] = ()
    layer: int | None
    kind: Text
    minimum: float
    maximum: float
    clip: dict[Text, dict[Text, float]]
    outlier_ratio: float
    outlier_channels: tuple[Channel, ...] = ()
    convergence: dict[Text, tuple[float, ...]]
    stable_after: dict[Text, int | None]

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


class Histogram(_Part):
    """Histogram of the magnitudes at a site."""

    site: Text
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int = 0

    @model_validator(mode="after")
    def _has_bins(self) -> Histogram:
        _check_bins(self.edges, self.counts)
        return self


class TechniqueVerdict(_Part):
    """Convergence of a technique's ranges.

    Attributes:
        stable_after: samples after which no range moved by more than the tolerance; None if some still move.
        moving: sites that still moved in the last quarter, the worst first.
        text: the same in a sentence.
    """

    stable_after: int | None
    moving: tuple[Text, ...] = ()
    text: Text


class SetSource(_Part):
    """Source of conversations."""

    source: Text
    identity: Text
    weight: float
    read: int
    taken: int


class Template(_Part):
    """Chat template that renders conversations as text; `date` is the day that it prints, if it prints one."""

    applied: bool
    sha256: Text | None = None
    enable_thinking: bool | None = None
    date: Text | None = None


class Lengths(_Part):
    """Distribution of tokens per conversation."""

    min: int
    median: float
    mean: float
    max: int
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _has_bins(self) -> Lengths:
        _check_bins(self.edges, self.counts)
        return self


class Overlap(_Part):
    """Overlap of a calibration set with an evaluation, or the reason why it is unknown.

    Attributes:
        evaluation: label of the evaluation.
        task: lm-eval's name of the task.
        items: number of items of the evaluation.
        overlapping: items that share a run of `ngram` words; `share` of all.
        example: the beginning of the first of them.
        reason: why the overlap is unknown.
        too_short: items of fewer words, which cannot overlap.
    """

    evaluation: Text
    task: Text
    items: int | None = None
    overlapping: int | None = None
    ngram: int | None = None
    share: float | None = None
    example: Text | None = None
    reason: Text | None = None
    too_short: int | None = None


class SetCard(_Part):
    """Description of the calibration set; `counts` are of rows that were passed over or changed, by reason."""

    name: Text
    sources: tuple[SetSource, ...]
    template: Template
    counts: dict[Text, int] = Field({})
    tokens: int
    lengths: Lengths
    languages: dict[Text, float] = Field({})
    overlap: tuple[Overlap, ...] = ()


class ExpertLayer(_Part):
    """Experts of one layer, in the order of their numbers.

    Attributes:
        name: of their module.
        layer: number of the layer.
        tokens: calibration tokens that the BF16 model's router sent to each.
        since: for each the index of the first sample of which it was sent any; None for none.
    """

    name: Text
    layer: int | None
    tokens: tuple[int, ...] = Field(min_length=1)
    since: tuple[int | None, ...] = ()

    @property
    def median(self) -> float:
        """Median over the experts."""
        return statistics.median(self.tokens)

    @property
    def unrouted(self) -> tuple[int, ...]:
        """Experts that no token was sent to."""
        return tuple(number for number, tokens in enumerate(self.tokens) if not tokens)

    def unrouted_in(self, samples: int) -> tuple[int, ...]:
        """Return the experts that no token of the first samples was sent to."""
        return tuple(number for number, first in enumerate(self.since) if first is None or first >= samples)

    @property
    def unrouted_text(self) -> str:
        """All of them, with runs shortened: `3, 8-11`; `none`."""
        runs: list[list[int]] = []
        for number in self.unrouted:
            if runs and runs[-1][-1] == number - 1:
                runs[-1][1:] = [number]
            else:
                runs.append([number])
        return ", ".join("-".join(map(str, run)) for run in runs) or "none"


class Summary(Result):
    """Content of `summary.json`.

    Attributes:
        conversations: number of conversations.
        tokens: total number of tokens.
        dtype: type of the computation.
        tolerance: largest change of a clip point that counts as none.
        techniques: techniques that derive ranges.
        samples_at: numbers of samples at which clip points were recorded.
        sites: every tensor that has scales.
        worst: histograms of the sites with the largest outlier ratio.
        verdict: convergence of each technique.
        card: description of the calibration set.
        experts: of a mixture of experts, each layer's.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    SOURCE: ClassVar[str] = SUMMARY

    conversations: int
    tokens: int
    dtype: Text
    tolerance: float
    techniques: tuple[Text, ...]
    samples_at: tuple[int, ...]
    sites: tuple[Site, ...]
    worst: tuple[Histogram, ...] = ()
    verdict: dict[Text, TechniqueVerdict]
    card: SetCard
    experts: tuple[ExpertLayer, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Summary:
        for site in self.sites:
            if any(len(curve) != len(self.samples_at) for curve in site.convergence.values()):
                raise ValueError(f"the convergence of {site.name} is not one value for each of samples_at")
        return self


def read_summary(folder: Path) -> Summary | Missing:
    """Return the summary of the calibration in `folder`, or the reason why it is unavailable."""
    try:
        content = parse_json((folder / SUMMARY).read_bytes())
    except FileNotFoundError:
        return Missing(reason=f"this calibration has no {SUMMARY}: it was made by an earlier release")
    except (OSError, ValueError):
        return Missing(reason=f"{SUMMARY} of this calibration cannot be read")
    if reason := other_version(Summary, content):
        return Missing(reason=f"{SUMMARY} {reason}")
    try:
        return Summary.model_validate(content, extra="ignore")
    except ValidationError as error:
        return Missing(reason=f"{SUMMARY} of this calibration cannot be read ({_first(error)})")


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    return clean(f"{where}: {item['msg']}" if where else item["msg"], 160)


def _check_bins(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    if counts and len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} bins need one edge more, not {len(edges)}")


def observations_key(payload: Payload) -> str:
    """Return the part of a calibration's identity that a checkpoint made from it depends on.

    Comparing with another evaluation changes the card, but not the observations.
    """
    return key_of({name: value for name, value in payload.items() if name != CHECKED})
