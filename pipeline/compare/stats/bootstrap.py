"""The standard error of a percentile of one repeat, by the bootstrap over requests.

Requests are drawn with replacement, each with all of its values: the gaps between the tokens of one reply are not
independent (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8). The variation between repeats
is not included; `repeats` adds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 400
SEED = 0
# Numbers in memory at once while resampling.
BATCH = 4_000_000


def percentiles(values: NDArray[np.float64], counts: NDArray[np.int64], at: Sequence[float]) -> NDArray[np.float64]:
    """Return percentiles of `values` repeated `counts` times each, as defined by numpy's `method="inverted_cdf"`.

    Args:
        values: shape (n,), sorted.
        counts: shape (..., n), multiplicity of each value; at least one in each row.
        at: percentiles, 0 to 100.

    Returns:
        shape (..., len(at)).
    """
    cumulative = np.cumsum(counts, axis=-1)
    total = cumulative[..., -1:]
    found = [np.argmax(cumulative >= np.maximum(1, np.ceil(total * (percent / 100) - 1e-9)), axis=-1) for percent in at]
    chosen: NDArray[np.float64] = values[np.stack(found, axis=-1)]
    return chosen


def percentile_errors(
    values: NDArray[np.float64], sizes: NDArray[np.int64], at: Sequence[float], seed: int = SEED
) -> list[float | None]:
    """Return standard errors of percentiles over requests.

    Args:
        values: shape (n,), those of all requests one after another.
        sizes: shape (requests,), number of values per request; they add up to n.
        at: percentiles, 0 to 100.
        seed: seed of the resampling.

    Returns:
        one for each percentile; None if fewer than two requests have a value.
    """
    from scipy.stats import bootstrap

    owner = np.repeat(np.arange(len(sizes)), sizes)
    if len(np.unique(owner)) < 2:
        return [None] * len(at)
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], owner[order]

    def statistic(drawn: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        rows = drawn.reshape(-1, drawn.shape[-1])
        times = np.stack([np.bincount(row, minlength=len(sizes)) for row in rows])
        # A resample of requests without a single value has no percentile; the smallest stands in.
        counts = times[:, owner]
        counts[counts.sum(axis=1) == 0, 0] = 1
        return np.moveaxis(percentiles(ordered, counts, at), -1, 0).reshape(len(at), *drawn.shape[:-1])

    found = bootstrap(
        (np.arange(len(sizes)),),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // max(1, len(values))),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return [float(error) for error in np.atleast_1d(found.standard_error)]
