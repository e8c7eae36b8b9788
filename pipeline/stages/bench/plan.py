"""The loads of a protocol, each a number of requests under a rate or a limit of concurrency."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config import BenchSettings

# Seeds depend on load and repeat, so each set of prompts differs; those of warm-up are far from all others.
LOAD_SEEDS = 100
WARMUP_SEED = 10_000


class Load(BaseModel):
    """One load, repeated with other prompts each time.

    Attributes:
        name: unique within its protocol.
        num_prompts: requests of one repeat.
        request_rate: requests per second, of a Poisson process; `inf` sends all at once.
        max_concurrency: requests in flight; None for no limit.
        index: its place in the protocol, part of its seeds.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    num_prompts: int
    request_rate: float | Literal["inf"] = "inf"
    max_concurrency: int | None = None
    index: int = 0

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
    """Return the ladder's levels of concurrency; the number of requests does not depend on the server's speed."""
    assert settings.ladder is not None
    for index, slots in enumerate(settings.ladder.concurrency):
        wanted = max(settings.ladder.min_prompts, slots * settings.ladder.prompts_per_slot)
        number = min(max(wanted, slots), settings.num_prompts)
        yield Load(name=f"concurrency {slots}", num_prompts=number, max_concurrency=slots, index=index)


def rates(settings: BenchSettings, saturation: float) -> Iterator[Load]:
    """Return the ladder's request rates.

    Args:
        settings: with a ladder.
        saturation: the highest request throughput that was measured, requests per second.
    """
    assert settings.ladder is not None
    first = len(settings.ladder.concurrency)
    for index, share in enumerate(settings.ladder.rates, start=first):
        rate = significant(share * saturation)
        yield Load(
            name=f"rate {share:g} of saturation", num_prompts=settings.num_prompts, request_rate=rate, index=index
        )


def probe(settings: BenchSettings, rate: float, index: int) -> Load:
    """Return a load at a rate tried in the search for the highest good one."""
    return Load(name=f"probe {_rate(rate)}", num_prompts=settings.slo.prompts, request_rate=rate, index=50 + index)


def warmup(settings: BenchSettings) -> Load:
    """Return a round of warm-up, with the protocol's largest number of requests in flight."""
    flight = settings.max_concurrency if settings.ladder is None else settings.ladder.concurrency[-1]
    return Load(name="warm-up", num_prompts=settings.warmup_prompts, max_concurrency=flight)


def significant(rate: float) -> float:
    """Round a rate to three significant digits, so that the client and the result have the same value."""
    return float(f"{rate:.3g}")


def _rate(rate: float | Literal["inf"]) -> str:
    return "inf" if rate == "inf" else f"{rate:g}/s"
