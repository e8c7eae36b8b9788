"""The loads of a protocol, each a number of requests under a rate (open) or a limit of concurrency (closed).

The levels of a ladder last about `bench.ladder.level_s`: a pilot, which is discarded, sends a few requests and thus says
how many that takes. Requests per level and the rates are those of BF16 for every variant, so that all are sent the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config import BenchSettings
from pipeline.results.bench import LoadKind, kind_of

# Seeds depend on load and repeat, so each set of prompts differs; those of warm-up are far from all others.
LOAD_SEEDS = 100
WARMUP_SEED = 10_000
PILOT_SEED = 20_000
# Requests in flight at a closed load's ramp and drain, for each slot; a pilot has as many and no more.
RAMP_SLOTS, DRAIN_SLOTS = 2, 1
# Share of an open load's duration that is its ramp, and that is its drain.
CUT = 0.1
# Seeds of probes lie beyond those of all other loads.
PROBE_INDEX = 50


class Load(BaseModel):
    """One load, repeated with other prompts each time.

    Attributes:
        name: unique within its protocol.
        num_prompts: requests of one repeat.
        request_rate: requests per second, of a Poisson process; `inf` sends all at once.
        max_concurrency: requests in flight; None for no limit.
        index: its place in the protocol, part of its seeds.
        is_cut: figures are those of its steady part, without ramp and drain.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    num_prompts: int
    request_rate: float | Literal["inf"] = "inf"
    max_concurrency: int | None = None
    index: int = 0
    is_cut: bool = False

    @property
    def kind(self) -> LoadKind:
        """Open or closed."""
        return kind_of(self.request_rate, self.max_concurrency)

    @property
    def slug(self) -> str:
        """Name of the load's folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")

    def seed(self, settings: BenchSettings, repeat: int) -> int:
        """Return the seed of a repeat; the repeats of the study's single load count up from `bench.seed`."""
        return settings.seed + self.index * LOAD_SEEDS + repeat


def single(settings: BenchSettings) -> Load:
    """Return the one load of a protocol without a ladder."""
    parts = [f"rate {_rate(settings.request_rate)}"]
    if settings.max_concurrency is not None:
        parts = [f"concurrency {settings.max_concurrency}", *(parts if settings.request_rate != "inf" else [])]
    return Load(
        name=", ".join(parts),
        num_prompts=settings.num_prompts,
        request_rate=settings.request_rate,
        max_concurrency=settings.max_concurrency,
    )


def levels(settings: BenchSettings) -> Iterator[Load]:
    """Return the ladder's levels of concurrency, each with the fewest requests that it may have."""
    assert settings.ladder is not None
    for index, slots in enumerate(settings.ladder.concurrency):
        number = max(settings.ladder.min_prompts, (RAMP_SLOTS + DRAIN_SLOTS + 1) * slots)
        yield Load(
            name=f"concurrency {slots}", num_prompts=number, max_concurrency=slots, index=index, is_cut=True
        )


def pilot(level: Load) -> Load:
    """Return the discarded requests that come before a level: they warm the server up, and tell its throughput."""
    assert level.max_concurrency is not None
    number = max(RAMP_SLOTS * level.max_concurrency, 4)
    return Load(name=f"pilot {level.name}", num_prompts=number, max_concurrency=level.max_concurrency)


def lasting(level: Load, seconds: float, throughput: float) -> Load:
    """Return a level with as many requests as its steady part answers in that time, besides ramp and drain.

    Args:
        level: with the fewest requests that it may have.
        seconds: duration of the steady part.
        throughput: requests per second under this level.
    """
    assert level.max_concurrency is not None
    number = math.ceil(seconds * throughput) + (RAMP_SLOTS + DRAIN_SLOTS) * level.max_concurrency
    return level.model_copy(update={"num_prompts": max(level.num_prompts, number)})


def rates(settings: BenchSettings, saturation: float, *, own: bool) -> Iterator[Load]:
    """Return the ladder's request rates.

    Args:
        settings: with a ladder.
        saturation: the highest request throughput of the closed levels, requests per second.
        own: the saturation is that of the variant itself, which others do not share; the name says so.
    """
    assert settings.ladder is not None
    first = len(settings.ladder.concurrency)
    for index, share in enumerate(settings.ladder.rates, start=first):
        rate = significant(share * saturation)
        name = f"rate {_rate(rate)}{f', {share:g} of own saturation' if own else ''}"
        yield _open(name, rate, settings.ladder.level_s / (1 - 2 * CUT), settings.ladder.min_prompts, index)


def probe(rate: float, seconds: float, index: int) -> Load:
    """Return a load at a rate tried in the search for the highest good one; the caller's index is part of its seed."""
    return _open(f"probe {index + 1}, rate {_rate(rate)}", rate, seconds, 1, PROBE_INDEX + index)


def _open(name: str, rate: float, seconds: float, least: int, index: int) -> Load:
    """Return an open load of that duration."""
    number = max(least, math.ceil(rate * seconds))
    return Load(name=name, num_prompts=number, request_rate=rate, index=index, is_cut=True)


def warmup(settings: BenchSettings) -> Load:
    """Return a round of warm-up, with the protocol's largest number of requests in flight."""
    flight = settings.max_concurrency if settings.ladder is None else settings.ladder.concurrency[-1]
    return Load(name="warm-up", num_prompts=settings.warmup_prompts, max_concurrency=flight)


def significant(rate: float) -> float:
    """Round a rate to three significant digits, so that the client and the result have the same value."""
    return float(f"{rate:.3g}")


def _rate(rate: float | Literal["inf"]) -> str:
    return "inf" if rate == "inf" else f"{rate:g}/s"
