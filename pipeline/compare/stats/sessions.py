"""Changes of speed between two sessions that measured the same variants under the same load.

With equal numbers of repeats, the i-th repeats of both sessions have the same prompts: they are paired, which removes
the effect of the prompts. The change is the mean of the logarithms' differences, a randomised complete block analysis
of one factor (D. Montgomery, Design and Analysis of Experiments, 8th ed., 2013, section 4.1). The variance of the
differences is pooled over the variants; where M. Bartlett's test of equal variances (Proc. R. Soc. A 160, 1937) rejects
that at 5 %, a variant has the larger of the pooled variance and its own. Unequal numbers of repeats are compared by
B. Welch's t-test of the logarithms (Biometrika 34, 1947), not pooled.

Repeats share one start of a server, so their interval covers the noise within a session, and a session has an effect of
its own. The p-value includes it: the effects are normal with the standard deviation T = log(1 + tolerance), so the
difference of two sessions has the variance 2 T^2 + v, v being that of the mean over repeats. T is stated, not
estimated: it has no uncertainty, and F. Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946) of the sum are
df (2 T^2 + v)^2 / v^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr, stdtr, stdtrit

from pipeline.compare.stats.intervals import LEVEL, Interval, percent_of
from pipeline.compare.stats.repeats import IDENTICAL, NO_VARIANCE, SINGLE
from pipeline.results.base import Frozen, Missing

Floats = NDArray[np.float64]
Pair = tuple[Sequence[float], Sequence[float]]


class SessionChange(Frozen):
    """A change between sessions in percent.

    `interval` covers the noise of the repeats alone; `p_value` is two-sided, of no change beyond the variation between
    sessions. Without an interval, `reason` says why.
    """

    percent: float
    interval: Interval | None
    p_value: float | None = None
    reason: str = ""


class _Estimate(Frozen):
    """Mean change of the logarithm, its variance and degrees of freedom; `spread` is of one pair, None if unpaired."""

    log_change: float
    variance: float
    freedom: float
    pairs: int = 0
    spread: float | None = None


def session_changes(pairs: Mapping[str, Pair], tolerance_percent: float) -> dict[str, SessionChange | Missing]:
    """Return the change of one metric from an earlier session, for each variant.

    Args:
        pairs: by variant, the repeats now and then.
        tolerance_percent: standard deviation of the effect of a session.
    """
    estimates = {name: _estimate(now, then) for name, (now, then) in pairs.items()}
    estimates |= _pooled({name: each for name, each in estimates.items() if isinstance(each, _Estimate)})
    session = 2 * math.log1p(tolerance_percent / 100) ** 2
    return {name: _change(each, session) if isinstance(each, _Estimate) else each for name, each in estimates.items()}


def _estimate(now: Sequence[float], then: Sequence[float]) -> _Estimate | SessionChange | Missing:
    if not now or not then:
        return Missing(reason="no repeat finished")
    if min(*now, *then) <= 0:
        return Missing(reason="a ratio needs values above zero")
    ours, theirs = np.log(now), np.log(then)
    change = float(ours.mean() - theirs.mean())
    if min(len(now), len(then)) < 2:
        return SessionChange(percent=percent_of(change), interval=None, reason=SINGLE)
    if len(now) == len(then):
        spread = float(np.var(ours - theirs, ddof=1))
        return _Estimate(
            log_change=change, variance=spread / len(now), freedom=len(now) - 1, pairs=len(now), spread=spread
        )
    parts = [float(np.var(each, ddof=1)) / len(each) for each in (ours, theirs)]
    total = sum(parts)
    shares = [part**2 / (len(each) - 1) for part, each in zip(parts, (ours, theirs), strict=True)]
    return _Estimate(log_change=change, variance=total, freedom=total**2 / sum(shares) if total > NO_VARIANCE else 1.0)


def _pooled(estimates: Mapping[str, _Estimate]) -> dict[str, _Estimate]:
    """Return the paired estimates with their variance pooled over all variants; a larger one where that is unfair."""
    paired = {name: each for name, each in estimates.items() if each.spread is not None}
    spreads = np.array([each.spread for each in paired.values()], dtype=np.float64)
    freedoms = np.array([each.freedom for each in paired.values()])
    if len(paired) < 2:
        return {}
    freedom = float(freedoms.sum())
    spread = float(spreads @ freedoms) / freedom
    fair = _equal(spreads, freedoms)
    return {
        name: each.model_copy(update={"variance": spread / each.pairs, "freedom": freedom})
        for (name, each), own in zip(paired.items(), spreads, strict=True)
        if fair or spread > own
    }


def _equal(variances: Floats, freedoms: Floats) -> bool:
    """Return True unless Bartlett's test rejects equal variances at 5 %."""
    if (none := variances <= NO_VARIANCE).any():
        return bool(none.all())
    total = float(freedoms.sum())
    statistic = total * math.log(variances @ freedoms / total) - float(freedoms @ np.log(variances))
    correction = 1 + (float((1 / freedoms).sum()) - 1 / total) / (3 * (len(variances) - 1))
    return float(chdtrc(len(variances) - 1, statistic / correction)) >= 1 - LEVEL


def _change(estimate: _Estimate, session: float) -> SessionChange:
    percent, variance = percent_of(estimate.log_change), estimate.variance
    total = variance + session
    if total <= NO_VARIANCE:
        return SessionChange(percent=percent, interval=None, reason=IDENTICAL)
    half = float(stdtrit(estimate.freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    away = -abs(estimate.log_change) / math.sqrt(total)
    freedom = estimate.freedom * (total / variance) ** 2 if variance > NO_VARIANCE else math.inf
    return SessionChange(
        percent=percent,
        interval=Interval(low=percent_of(estimate.log_change - half), high=percent_of(estimate.log_change + half)),
        p_value=2 * float(stdtr(freedom, away) if math.isfinite(freedom) else ndtr(away)),
    )
