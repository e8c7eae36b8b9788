"""Guards on trends: throughput must neither rise nor fall with time, before and during the measurement.

Both fit a line to the logarithm of throughput over the index of its round or repeat (ordinary least squares: N. Draper,
H. Smith, Applied Regression Analysis, 3rd ed., 1998, section 1.4), so a slope is a relative change per round. Loads
have levels of their own and share one slope. With few repeats the slope has a wide interval: each text says how large
a trend the test finds with 80 %, so that a pass is not read as proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from pipeline.compare.stats.simultaneous import detectable
from pipeline.results.bench import Guard, LoadResult
from pipeline.results.metrics import THROUGHPUT
from pipeline.results.text import signed_percent

LEVEL = 0.95
# Significance of a trend over repeats: a mark takes a figure out of the decision, so false ones must be rare.
TREND_ALPHA = 0.01
# A trend over all repeats that changes no decision, as `report.tolerance_percent`.
SMALL = 0.02
# Fewer rounds leave no degree of freedom.
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Trend:
    """A common slope of log throughput per round, with its standard error and degrees of freedom.

    Attributes:
        slope: relative change of throughput per round.
        error: standard error; 0 where the rounds lie on a line.
        freedom: degrees of freedom of the error.
    """

    slope: float
    error: float
    freedom: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of no trend."""
        if not self.error:
            return 1.0 if not self.slope else 0.0
        return 2 * float(stdtr(self.freedom, -abs(self.slope) / self.error))

    @property
    def highest(self) -> float:
        """Upper end of the slope's one-sided interval: a steeper rise is ruled out."""
        return self.slope + float(stdtrit(self.freedom, LEVEL)) * self.error

    @property
    def detectable(self) -> float:
        """Slope that the two-sided test finds with a probability of 80 %, by the noncentral t distribution."""
        critical = float(stdtrit(self.freedom, 1 - TREND_ALPHA / 2))
        return detectable(critical, self.freedom) * self.error


def trend(series: Sequence[Sequence[float]]) -> Trend | None:
    """Fit one slope to several series, each with a mean of its own; None without a degree of freedom.

    Args:
        series: throughput of each round, in order of execution.
    """
    rates = [np.log(np.asarray(each, float)) for each in series if len(each) > 1 and min(each) > 0]
    freedom = sum(len(each) - 1 for each in rates) - 1
    if freedom < 1:
        return None
    x = np.concatenate([np.arange(len(each)) - (len(each) - 1) / 2 for each in rates])
    y = np.concatenate([each - each.mean() for each in rates])
    total = float(x @ x)
    slope = float(x @ y) / total
    rest = float(((y - slope * x) ** 2).sum())
    return Trend(slope, math.sqrt(max(0.0, rest) / freedom / total), freedom)


def is_steady(rounds: Sequence[float], tolerance: float) -> bool:
    """Return whether a rise of more than `tolerance` a round is ruled out; too few rounds rule out nothing."""
    found = trend([rounds]) if len(rounds) >= MIN_ROUNDS else None
    return found is not None and found.highest < tolerance


def warm_up(rounds: Sequence[float], tolerance: float, requested: int) -> Guard:
    """Check that throughput had settled before measurement started.

    Rounds that still rise by more than the tolerance, or are too noisy to rule that out, fail. One or two rounds, such
    as one discarded repeat of the load, cannot be judged by themselves; `repeats` then judges the repeats after them.

    Args:
        rounds: tokens per second of each round.
        tolerance: relative rise per round that must be ruled out.
        requested: requests of a round.
    """
    if not requested or not rounds:
        return Guard(name="warm-up", passed=False, text="nothing was sent before the first measured request", load=None)
    shown = ", ".join(f"{rate:.0f}" for rate in rounds)
    text = f"{_count(len(rounds), 'discarded round')} of {requested} distinct prompts: {shown} tok/s"
    found = trend([rounds]) if len(rounds) >= MIN_ROUNDS else None
    if found is None:
        return Guard(name="warm-up", passed=None, text=f"{text}; the trend over repeats judges it", load=None)
    text += f"; {signed_percent(found.slope)} a round, a rise above {signed_percent(found.highest)} is ruled out"
    return Guard(name="warm-up", passed=found.highest < tolerance, text=text, load=None)


def repeats(loads: Sequence[LoadResult]) -> Guard:
    """Check that throughput has no trend over the repeats of a protocol's loads.

    A trend fails if it is significant at 1 % (two-sided) and changes throughput by 2 % or more over the repeats.
    """
    metrics = [load.metrics[THROUGHPUT.name].values for load in loads if THROUGHPUT.name in load.metrics]
    series = [values for values in metrics if len(values) > 1]
    found = trend(series)
    if found is None:
        return Guard(
            name="trend",
            passed=None,
            text="a trend over time needs three repeats of a load, or two of several",
            load=None,
        )
    steps = max(len(values) for values in series) - 1
    where = f"{_count(steps + 1, 'repeat')} of {_count(len(series), 'load')}"
    text = f"{signed_percent(found.slope)} throughput a repeat over {where} (p = {found.p_value:.2g})"
    text += f"; a trend of {100 * found.detectable:.1f} % a repeat is found with 80 %"
    failed = found.p_value <= TREND_ALPHA and abs(math.expm1(found.slope * steps)) >= SMALL
    return Guard(name="trend", passed=not failed, text=text, load=None)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
