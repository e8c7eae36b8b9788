"""`summary.json` of a calibration: what it saw, in figures small enough to be read while a page is made.

It comes from another stage, perhaps of another release: what cannot be read becomes a reason, and every text in it is
cleaned like any other text from outside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.artifacts.keys import key_of
from pipeline.results.base import Missing
from pipeline.results.text import clean

SCHEMA_VERSION = 1
Text = Annotated[str, AfterValidator(lambda value: clean(value, 200))]


class _Part(BaseModel):
    """Plain data; a later release may add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Channel(_Part):
    """A channel and the largest magnitude seen in it."""

    channel: int
    absmax: float


class Site(_Part):
    """One tensor that scales are made for."""

    name: Text
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
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


class Histogram(_Part):
    """How often each magnitude occurred at a site."""

    site: Text
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int = 0

    @model_validator(mode="after")
    def _has_bins(self) -> Histogram:
        _check_bins(self.edges, self.counts)
        return self


class TechniqueVerdict(_Part):
    """Whether a technique's ranges had settled."""

    stable_after: int | None
    moving: tuple[Text, ...] = ()
    text: Text


class SetSource(_Part):
    """Where conversations came from."""

    source: Text
    identity: Text
    weight: float
    read: int
    taken: int


class Template(_Part):
    """How conversations became text."""

    applied: bool
    sha256: Text | None = None
    enable_thinking: bool | None = None


class Lengths(_Part):
    """Tokens of a conversation."""

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
    """What a calibration set shares with an evaluation, or why that is not known."""

    evaluation: Text
    task: Text
    items: int | None = None
    overlapping: int | None = None
    ngram: int | None = None
    share: float | None = None
    example: Text | None = None
    reason: Text | None = None


class SetCard(_Part):
    """What the model was shown."""

    name: Text
    sources: tuple[SetSource, ...]
    template: Template
    counts: dict[Text, int] = {}
    tokens: int
    lengths: Lengths
    languages: dict[Text, float] = {}
    overlap: tuple[Overlap, ...] = ()


class Summary(_Part):
    """The whole file."""

    schema_version: Literal[1]
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

    @model_validator(mode="after")
    def _fits_together(self) -> Summary:
        for site in self.sites:
            if any(len(curve) != len(self.samples_at) for curve in site.convergence.values()):
                raise ValueError(f"the convergence of {site.name} is not one value for each of samples_at")
        return self


def read_summary(folder: Path) -> Summary | Missing:
    """What the calibration in `folder` says that it saw, or why that is not known."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Missing(reason=f"this calibration has no {SUMMARY}: it was made by an earlier release")
    except (OSError, ValueError, RecursionError):
        return Missing(reason=f"{SUMMARY} of this calibration cannot be read")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        found = clean(version, 40)
        return Missing(reason=f"{SUMMARY} has schema version {found}, this release reads {SCHEMA_VERSION}")
    try:
        return Summary.model_validate(content)
    except ValidationError as error:
        return Missing(reason=f"{SUMMARY} of this calibration cannot be read ({_first(error)})")


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    where = ".".join(str(part) for part in item["loc"])
    return clean(f"{where}: {item['msg']}" if where else item["msg"], 160)


def _check_bins(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    if counts and len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} bins need one edge more, not {len(edges)}")


TOKENS = "tokens.safetensors"


SKETCHES = "sketches.safetensors"


RANGES = "ranges.safetensors"


SUMMARY = "summary.json"


CARD = "card.md"


CHECKED = "checked_against"


def observations_key(payload: dict[str, Any]) -> str:
    """What a checkpoint made from a calibration depends on, of the calibration's payload.

    Another evaluation to be held against makes another card, and the same observations.
    """
    return key_of({name: value for name, value in payload.items() if name != CHECKED})
