"""The highest request rate at which an SLO is still met: doubled until unmet, then bisected, and both ends repeated.

Each probe is an open load (requests arrive at a rate, answered or not) with its own prompts and arrivals, analysed
without its ramp and drain (`steady`). Its percentile varies from probe to probe, so one probe decides nothing near the
answer: an end of the bracket has two more probes with other seeds, and a rate at which the three do not tell lies
inside the bracket. The search assumes that a higher rate is never easier, and reports where it saw the contrary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.config import SloSettings
from pipeline.stages.bench.plan import PROBE_CUT, Load, significant
from pipeline.stages.bench.requests import Floats, Requests
from pipeline.stages.bench.steady import Steady

# A probe lasts so many times the P99 of the end-to-end latency: its cut of a tenth at either end then covers one.
LATENCIES_PER_PROBE = 10
# Probes of an end of the bracket, and the one-sided 95 % quantile of Student's t for their standard error.
CONFIRMATIONS = 3
QUANTILE = 2.92
# The rate above the upper end at which monotony is checked, if none was tried there.
BEYOND = 1.5
# A probe that held the limits, but was shorter than required by more than this, is sent again.
SLACK = 1.1


@dataclass(frozen=True, eq=False)
class Observation:
    """A probe's outcome.

    Attributes:
        met: whether the limits were held and the offered rate completed.
        held: whether the limits were held.
        seen: the percentile of each limited metric, milliseconds; infinite among failed requests.
        values: each limited metric of each request, in milliseconds; infinite of a failed one.
        completed: completions in the steady part as a share of the offered rate.
        in_flight: mean requests in flight in the steady part.
        e2el_s: P99 of the end-to-end latency, seconds.
        requests: number of requests analysed.
    """

    met: bool
    held: bool
    seen: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Floats] = field(default_factory=dict)
    completed: float = 1.0
    in_flight: float = 1.0
    e2el_s: float = 0.0
    requests: int = 0


class Trial(BaseModel):
    """One probe of a search; `counts` is false if it was too short to be a steady state."""

    model_config = ConfigDict(frozen=True)

    rate: float
    seconds: float
    met: bool
    counts: bool


class Bracket(BaseModel):
    """Interval of the highest good rate, in requests per second; None for an end that was not found.

    Attributes:
        met: the highest rate that met the SLO, with none below it that did not.
        unmet: the lowest rate that did not meet it, with none above it that did.
        met_confirmed: further probes with other seeds agreed.
        unmet_confirmed: further probes with other seeds agreed.
        monotone: no rate met the SLO above one that did not.
        trials: all probes in order.
    """

    model_config = ConfigDict(frozen=True)

    met: float | None
    unmet: float | None
    met_confirmed: bool
    unmet_confirmed: bool
    monotone: bool
    trials: tuple[Trial, ...]


def observe(part: Steady, load: Load, limits: Mapping[str, float], percentile: float) -> Observation:
    """Judge the steady part of a probe.

    Args:
        part: requests sent after the ramp and before the drain.
        load: the probe.
        limits: the SLO, milliseconds by metric.
        percentile: percent of requests that must meet each limit.
    """
    requests: Requests = part.requests
    rate = float(load.request_rate)
    if not len(requests.start):
        return Observation(met=False, held=False, completed=0.0, e2el_s=float("inf"))
    seen = {name: requests.percentile(name, percentile) for name in limits}
    held = all(seen[name] <= limit for name, limit in limits.items())
    return Observation(
        met=held and part.is_completed(rate),
        held=held,
        seen=seen,
        values={name: requests.limited(name) for name in limits},
        completed=part.completed_share(rate),
        in_flight=part.in_flight,
        e2el_s=requests.percentile("e2el_ms", 99) / 1000,
        requests=len(requests.start),
    )


def verdict(observations: Sequence[Observation], slo: SloSettings) -> bool | None:
    """Return whether the probes of one rate met the SLO; None where they do not tell.

    Probes that differ do not tell. Up to two that agree are believed. Of three, the requests are pooled: the percentile
    of one probe is too good on average, because load also varies from probe to probe (by 2 to 4 % on the simulated
    server of the tests, where that of three pooled probes is within 1 %). Three tell if their pooled percentile lies
    beyond the limit by more than its standard error explains, the spread between the probes (replications: A. M. Law,
    Simulation Modeling and Analysis, ch. 9.5.2).
    """
    outcomes = {each.met for each in observations}
    if len(outcomes) != 1:
        return None
    (met,) = outcomes
    if len(observations) < CONFIRMATIONS or not observations[0].values:
        return met
    each = [_excess(one.seen, slo) for one in observations]
    names = observations[0].values
    pooled = {name: np.concatenate([one.values[name] for one in observations]) for name in names}
    percentiles = {name: float(np.percentile(pooled[name], slo.percentile, method="higher")) for name in names}
    excess = _excess(percentiles, slo)
    if not all(math.isfinite(value) for value in (*each, excess)) or (
        not met and any(one.held for one in observations)
    ):
        return met
    margin = QUANTILE * float(np.std(each, ddof=1)) / math.sqrt(len(each))
    return met if (excess + margin <= 0 if met else excess - margin > 0) else None


def _excess(seen: Mapping[str, float], slo: SloSettings) -> float:
    """Return the logarithm of the largest of the percentiles, each as a multiple of its limit."""
    return max(math.log(max(seen[name], 1e-9) / limit) for name, limit in slo.limits.items())


def search(probe: Callable[[float, float], Observation], start: float, slo: SloSettings) -> Bracket:
    """Search the highest rate that meets the SLO.

    Args:
        probe: sends requests at a rate for so many seconds, each time with another seed.
        start: the first rate, requests per second; any guess will do.
        slo: limits of the search: `probes`, `probe_s`, `prompts`, `resolution`.
    """
    return _Search(probe, slo).run(significant(start))


class _Search:
    def __init__(self, probe: Callable[[float, float], Observation], slo: SloSettings) -> None:
        self._probe = probe
        self._slo = slo
        self._trials: list[Trial] = []
        self._outcomes: dict[float, list[Observation]] = {}
        self._e2el_s: dict[float, float] = {}
        self._alone = False

    def run(self, start: float) -> Bracket:
        rate: float | None = start
        while rate is not None and len(self._trials) < self._slo.probes:
            self._try(rate)
            rate = self._next()
        met, unmet = self._ends()
        return Bracket(
            met=met,
            unmet=unmet,
            met_confirmed=self._is_confirmed(met),
            unmet_confirmed=self._is_confirmed(unmet),
            monotone=not any(low < high for low in self._with(met=False) for high in self._with(met=True)),
            trials=tuple(self._trials),
        )

    def _try(self, rate: float) -> None:
        again = rate in self._outcomes and not self._outcomes[rate]
        seconds = self._seconds(rate)
        seen = self._probe(rate, seconds)
        # A queue that grows has latencies as long as the probe, however long it is; so it is sent again just once.
        counts = not seen.held or again or LATENCIES_PER_PROBE * seen.e2el_s <= SLACK * seconds
        if seen.held:
            self._e2el_s[rate] = max(self._e2el_s.get(rate, 0.0), seen.e2el_s)
        # A lower rate cannot help requests that are served alone.
        self._alone = self._alone or (not seen.held and seen.in_flight < 1)
        self._trials.append(Trial(rate=rate, seconds=seconds, met=seen.met, counts=counts))
        outcomes = self._outcomes.setdefault(rate, [])
        if counts:
            outcomes.append(seen)

    def _seconds(self, rate: float) -> float:
        """Return the duration of a probe; latencies are taken to grow with the rate, from the nearest lower one."""
        lower = max((other for other in self._e2el_s if other <= rate), default=None)
        e2el_s = 0.0 if lower is None else self._e2el_s[lower] * rate / lower
        analysed_s = self._slo.prompts / rate / (1 - 2 * PROBE_CUT)
        return max(self._slo.probe_s, LATENCIES_PER_PROBE * e2el_s, analysed_s)

    def _next(self) -> float | None:
        """Return the rate to try next; None when the search is done."""
        pending = next((rate for rate, outcomes in self._outcomes.items() if not outcomes), None)
        if pending is not None:
            return pending
        met, unmet = self._ends()
        if met is None:
            if self._alone:
                return unmet if not self._is_confirmed(unmet) else None
            return significant(min(self._outcomes) / 2)
        if unmet is None:
            return significant(max(self._outcomes) * 2)
        doubtful = [met, *sorted(rate for rate in self._outcomes if met < rate < unmet), unmet]
        unconfirmed = [end for end in (met, unmet) if not self._is_confirmed(end)]
        needed = sum(CONFIRMATIONS - len(self._outcomes[end]) for end in unconfirmed)
        if self._slo.probes - len(self._trials) > needed:
            for low, high in ((doubtful[0], doubtful[1]), (doubtful[-2], doubtful[-1])):
                middle = significant((low + high) / 2)
                if high > low * (1 + self._slo.resolution) and low < middle < high:
                    return middle
        if unconfirmed:
            return unconfirmed[0]
        # Beyond the upper end at least one rate must not meet the SLO either.
        return significant(BEYOND * unmet) if unmet == max(self._outcomes) else None

    def _ends(self) -> tuple[float | None, float | None]:
        """Return the bracket: below it every rate met the SLO, above it none did."""
        met, unmet = None, None
        for rate in sorted(self._outcomes):
            if self._verdict(rate) is not True:
                break
            met = rate
        for rate in sorted(self._outcomes, reverse=True):
            if self._verdict(rate) is not False:
                break
            unmet = rate
        return met, unmet

    def _with(self, *, met: bool) -> list[float]:
        """Return the rates at which a probe had that outcome."""
        return [rate for rate, outcomes in self._outcomes.items() if any(each.met is met for each in outcomes)]

    def _verdict(self, rate: float) -> bool | None:
        return verdict(self._outcomes[rate], self._slo)

    def _is_confirmed(self, rate: float | None) -> bool:
        return rate is not None and len(self._outcomes[rate]) >= CONFIRMATIONS
