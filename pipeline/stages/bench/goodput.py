"""The highest request rate at which an SLO is still met, found by bisection.

Each probe is a load of its own with its own prompts. What is found is an interval: the highest rate that met the SLO
and the lowest that did not; it assumes that a higher rate is never easier.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from pipeline.stages.bench.plan import significant


class Bracket(BaseModel):
    """Interval of the highest good rate, in requests per second; None for an end without a probe."""

    model_config = ConfigDict(frozen=True)

    met: float | None
    unmet: float | None


def bisect(meets: Callable[[float], bool], saturation: float, probes: int) -> Bracket:
    """Bisect the rates between zero and the saturation throughput of the server.

    Args:
        meets: sends a load at a rate and says whether its requests met the SLO.
        saturation: the highest request throughput seen, requests per second; the first rate tried.
        probes: rates tried at most.
    """
    met, unmet = None, None
    rate = significant(saturation)
    for _ in range(probes):
        if meets(rate):
            met = rate
        else:
            unmet = rate
        if unmet is None:
            break
        following = significant(((met or 0.0) + unmet) / 2)
        if following in (met, unmet):
            break
        rate = following
    return Bracket(met=met, unmet=unmet)
