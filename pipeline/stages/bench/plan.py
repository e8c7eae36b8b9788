"""The loads of a protocol, each a number of requests under a rate (open) or a limit of concurrency (closed).

The steady part of a ladder's load lasts `bench.ladder.level_s`. The number of requests which that takes is found for
BF16, by a pilot that is discarded, and used for every variant; so are the rates. All variants are sent the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.config import BenchSettings
from pipeline.results.bench import LoadKind, kind_of

# Seeds depend on load and repeat, so each set of prompts differs; those of warm-up are far from all others.
LOAD_SEEDS = 100
WARMUP_SEED = 10_000
PILOT_SEED = 20_000
# Requests of a closed load's ramp, of its drain, and of all of it at least, for each slot.
RAMP_SLOTS, DRAIN_SLOTS = 2, 1
LEAST_SLOTS = 6
# Seeds of probes lie beyond those of all other loads.
PROBE_INDEX = 50
# Share of a probe's duration that is its ramp, and that is its drain.
PROBE_CUT = 0.1
# Requests of a level's pilot at least.
PILOT = 4


class Load(BaseModel):
    """One load, repeated with other prompts each time.

    Attributes:
        name: unique within its protocol.
        num_prompts: requests of one repeat.
        request_rate: requests per second, of a Poisson process; `inf` sends all at once.
        max_concurrency: requests in flight; None for no limit.
        index: its place in the protocol, part of its seeds.
        is_cut: figures are those of its steady part, without ramp and drain.
        cut_s: seconds of an open load's ramp, and of its drain.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    num_prompts: int
    request_rate: float | Literal["inf"] = "inf"
    max_concurrency: int | None = None
    index: int = 0
    is_cut: bool = False
    cut_s: float = 0.0

    @property
    def kind(self) -> LoadKind:
        """Open or closed."""
        return kind_of(self.request_rate, self.max_concurrency)

    @property
    def slug(self) -> str:
        """Name of the load's folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")

    def seed(self, settings: BenchSettings, repeat: int) -> int:
        """Return the seed of a repeat, counted over all blocks; of the study's load the first is `bench.seed`."""
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
        number = max(settings.ladder.min_prompts, LEAST_SLOTS * slots)
        yield Load(name=f"concurrency {slots}", num_prompts=number, max_concurrency=slots, index=index, is_cut=True)


def pilot(level: Load) -> Load:
    """Return the discarded requests before a level: they warm the server up, and tell how many the level needs."""
    slots = level.max_concurrency or 1
    return Load(name=f"pilot {level.name}", num_prompts=max(slots, PILOT), max_concurrency=slots, index=level.index)


def lasting(level: Load, seconds: float, latency_s: float) -> Load:
    """Return a level with as many requests as its steady part answers in that time, besides ramp and drain.

    Requests per second are those in flight over their mean latency (Little's law).

    Args:
        level: with the fewest requests that it may have.
        seconds: duration of the steady part.
        latency_s: mean end-to-end latency under this level.
    """
    slots = level.max_concurrency or 1
    number = math.ceil(slots * seconds / latency_s) + (RAMP_SLOTS + DRAIN_SLOTS) * slots
    return level.model_copy(update={"num_prompts": max(level.num_prompts, number)})


def rates(settings: BenchSettings, saturation: float, *, own: bool) -> Iterator[Load]:
    """Return the ladder's request rates, without their duration (`open_for`).

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
        yield Load(name=name, num_prompts=settings.ladder.min_prompts, request_rate=rate, index=index, is_cut=True)


def open_for(load: Load, seconds: float, cut_s: float) -> Load:
    """Return an open load of so many seconds, of which `cut_s` at either end are its ramp and its drain."""
    assert load.request_rate != "inf"
    number = max(load.num_prompts, math.ceil(load.request_rate * seconds))
    return load.model_copy(update={"num_prompts": number, "cut_s": cut_s})


def probe(settings: BenchSettings, rate: float, seconds: float, index: int) -> Load:
    """Return the probe of that number in the search for the highest good rate: a tenth at either end is cut.

    vLLM's client sends a given number of requests in exactly number / rate seconds, so every probe would have the same
    mean rate, and percentiles better than those of Poisson arrivals. So the number is drawn, from a Poisson
    distribution.
    """
    number = max(1, int(np.random.default_rng([settings.seed, index]).poisson(rate * seconds)))
    return Load(
        name=f"probe {index + 1}, rate {_rate(rate)}",
        num_prompts=number,
        request_rate=float(f"{number / seconds:.5g}"),
        index=PROBE_INDEX + index,
        is_cut=True,
        cut_s=PROBE_CUT * seconds,
    )


def warmup(settings: BenchSettings) -> Load:
    """Return a round of warm-up: the measured load itself, of a ladder its highest level, with prompts of its own."""
    load = single(settings) if settings.ladder is None else list(levels(settings))[-1]
    number = load.num_prompts if settings.warmup_prompts is None else settings.warmup_prompts
    return load.model_copy(update={"name": "warm-up", "num_prompts": number, "index": 0})


def significant(rate: float) -> float:
    """Round a rate to three significant digits, so that the client and the result have the same value."""
    return float(f"{rate:.3g}")


def _rate(rate: float | Literal["inf"]) -> str:
    return "inf" if rate == "inf" else f"{rate:g}/s"
