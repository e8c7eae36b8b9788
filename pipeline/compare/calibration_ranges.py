"""Observed ranges over all sites of a model: their convergence with samples, and their growth with depth.

A site is one tensor with static scales: the input of Linear modules, or K or V of an attention layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.results.base import Frozen

BAND = (0.05, 0.95)


class LayerRange(Frozen):
    """The largest magnitude of one kind of site in one layer."""

    kind: str
    layer: int
    largest: float


class Spread(Frozen):
    """Clip points after `samples`, as shares of their final value: median and 5th to 95th percentile of sites."""

    samples: int
    median: float
    low: float
    high: float
    sites: int


def ranges_by_layer(observed: Iterable[tuple[str, int | None, float]]) -> tuple[LayerRange, ...]:
    """Return the largest of (kind, layer, magnitude) for each kind and layer; experts of one layer are merged."""
    largest: dict[tuple[str, int], float] = {}
    for kind, layer, magnitude in observed:
        if layer is not None:
            largest[kind, layer] = max(magnitude, largest.get((kind, layer), 0.0))
    kinds = list(dict.fromkeys(kind for kind, _ in largest))
    ordered = sorted(largest.items(), key=lambda item: (kinds.index(item[0][0]), item[0][1]))
    return tuple(LayerRange(kind=kind, layer=layer, largest=value) for (kind, layer), value in ordered)


def settling(samples_at: Sequence[int], curves: Iterable[Sequence[float]]) -> tuple[Spread, ...]:
    """Return the convergence of clip points over all sites; sites without observations are skipped."""
    relative = [[value / curve[-1] for value in curve] for curve in curves if curve and curve[-1] > 0]
    relative = [curve for curve in relative if all(math.isfinite(value) for value in curve)]
    if not relative:
        return ()
    low, median, high = np.quantile(np.array(relative), (BAND[0], 0.5, BAND[1]), axis=0)
    return tuple(
        Spread(samples=count, median=float(median[i]), low=float(low[i]), high=float(high[i]), sites=len(relative))
        for i, count in enumerate(samples_at)
    )
