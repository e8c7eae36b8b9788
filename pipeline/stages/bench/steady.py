"""The steady part of a load: requests sent after the ramp and before the drain, and the figures of these alone.

A load begins with an empty server and ends with one that empties; figures over all of it are those of neither state
(initialization bias: A. M. Law, Simulation Modeling and Analysis, 5th ed., ch. 9.5.1, which deletes the beginning).

* A closed load (a number of requests in flight, each answer followed by the next request) is cut by requests: with c in
  flight the first 2c requests are the ramp, so each slot has answered one on average, and the last c the drain. Every
  variant is thus judged on the same requests.
* An open load (requests arrive at a rate, answered or not) is cut by time, the same for every variant: a P99 of the
  end-to-end latency at either end.

Open and closed loads answer different questions: B. Schroeder, A. Wierman, M. Harchol-Balter, NSDI 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.results.bench import Guard
from pipeline.results.metrics import LATENCIES, PERCENTILES, latency
from pipeline.stages.bench.client import Run
from pipeline.stages.bench.plan import DRAIN_SLOTS, RAMP_SLOTS, Load
from pipeline.stages.bench.requests import Requests

# Share of the offered rate that must be completed, and of the slots that must be busy.
COMPLETED = 0.95
BUSY = 0.9
# Standard deviations of the number in flight that count as chance.
SIGMAS = 2
# Percentile of the end-to-end latency that the cut of an open load must cover.
LONGEST = 90


@dataclass(frozen=True)
class Steady:
    """The analysed part of one repeat.

    Attributes:
        requests: those that started in [begin, end).
        begin: on the client's clock, seconds.
        end: on the client's clock, seconds.
        in_flight: mean requests in flight between begin and end, of all requests.
        completed: requests answered between begin and end.
        sent: requests per second over the whole load, as the client sent them.
    """

    requests: Requests
    begin: float
    end: float
    in_flight: float
    completed: int
    sent: float

    @property
    def seconds(self) -> float:
        """Duration of the analysed part."""
        return self.end - self.begin

    def completed_share(self, rate: float) -> float:
        """Return the completions as a share of the requests that a rate offers.

        The share of the arrivals that were answered, and of the rate that the client reached: the arrivals of a Poisson
        process vary in their number, which says nothing of the server.
        """
        arrivals = len(self.requests.start)
        return min(1.0, self.sent / rate) * self.completed / arrivals if arrivals else 0.0

    def is_completed(self, rate: float) -> bool:
        """Return whether the offered rate was completed, but for what the number in flight varies by.

        Arrivals less completions are the growth of the number in flight N between the ends. Of a stable load its
        variance is about 2N (N is Poisson at either end, as in M/G/inf: L. Takacs, Introduction to the Theory of
        Queues, 1962), so a small load may show less than `COMPLETED` by chance.
        """
        arrivals = len(self.requests.start)
        chance = SIGMAS * math.sqrt(2 * self.in_flight) / arrivals if arrivals else 0.0
        return self.completed_share(rate) >= min(COMPLETED, 1 - chance)

    def summary(self) -> dict[str, float]:
        """Return vLLM's figures by vLLM's names and definitions (`vllm.benchmarks.serve.calculate_metrics`)."""
        answered = self.requests.where(self.requests.good)
        output, prompts = int(answered.output_lens.sum()), int(answered.input_lens.sum())
        found = {
            "duration": self.seconds,
            "request_throughput": len(answered.start) / self.seconds,
            "output_throughput": output / self.seconds,
            "total_token_throughput": (prompts + output) / self.seconds,
        }
        for name, (values, _) in answered.latencies().items():
            shown = values if len(values) else np.zeros(1)
            found[latency("mean", name).name] = float(shown.mean())
            found[latency("std", name).name] = float(shown.std())
            for percent, statistic in PERCENTILES.items():
                found[latency(statistic, name).name] = float(np.percentile(shown, percent))
        return found

    def run(self, whole: Run) -> Run:
        """Return the analysed part as a run of its own, with the rest of the summary of the whole."""
        summary: dict[str, Any] = {name: value for name, value in whole.summary.items() if not _is_figure(name)}
        return Run(summary | self.summary(), self.requests)


def steady(load: Load, requests: Requests) -> Steady:
    """Return the steady part of a load; all of it where the load is not analysed in part, or too small."""
    order = np.argsort(requests.start, kind="stable")
    starts, number = requests.start[order], len(order)
    first, last = float(starts[0]), float(starts[-1])
    begin, end = first, float((requests.start + requests.latency).max())
    chosen: NDArray[np.bool_] = np.ones(number, np.bool_)
    if load.kind == "open" and load.is_cut and last - load.cut_s > first + load.cut_s:
        begin, end = first + load.cut_s, last - load.cut_s
        chosen = (requests.start >= begin) & (requests.start < end)
    elif load.kind == "closed" and load.is_cut and load.max_concurrency is not None:
        ramp, drain = RAMP_SLOTS * load.max_concurrency, DRAIN_SLOTS * load.max_concurrency
        if number > ramp + drain and starts[number - drain] > starts[ramp]:
            begin, end = float(starts[ramp]), float(starts[number - drain])
            chosen = np.zeros(number, np.bool_)
            chosen[order[ramp : number - drain]] = True
    return _steady(requests, chosen, begin, end, (number - 1) / (last - first) if last > first else 0.0)


def guards(load: Load, parts: Sequence[Steady]) -> list[Guard]:
    """Return the checks that a load was the load that its name says: its concurrency held, its rate completed."""
    if not load.is_cut:
        return []
    if load.kind == "closed" and load.max_concurrency is not None:
        lowest = min(part.in_flight for part in parts)
        text = f"{lowest:.1f} of {load.max_concurrency} requests in flight on average in the steady part"
        passed = lowest >= BUSY * load.max_concurrency
        return [Guard(name="requests in flight", passed=passed, text=text, load=load.name)]
    if load.request_rate == "inf":
        return []
    rate = load.request_rate
    share = min(part.completed_share(rate) for part in parts)
    longest = max(part.requests.percentile("e2el_ms", LONGEST) for part in parts) / 1000
    return [
        Guard(
            name="completions",
            passed=all(part.is_completed(rate) for part in parts),
            text=f"{100 * share:.0f} % of the offered {rate:g} requests per second were completed",
            load=load.name,
        ),
        Guard(
            name="ramp",
            passed=longest <= load.cut_s,
            text=f"{load.cut_s:.1f} s were cut at either end, P{LONGEST} of the end-to-end latency is {longest:.1f} s",
            load=load.name,
        ),
    ]


def _steady(requests: Requests, chosen: NDArray[np.bool_], begin: float, end: float, sent: float) -> Steady:
    finish = requests.start + requests.latency
    span = max(end - begin, 1e-9)
    overlap = np.clip(np.minimum(finish, end) - np.maximum(requests.start, begin), 0, None)
    completed = requests.good & (finish >= begin) & (finish < end if end < finish.max() else finish <= end)
    return Steady(
        requests=requests.where(chosen),
        begin=begin,
        end=begin + span,
        in_flight=float(overlap.sum() / span),
        completed=int(completed.sum()),
        sent=sent,
    )


def _is_figure(name: str) -> bool:
    return name.endswith(tuple(f"_{latency}_ms" for latency in LATENCIES))
