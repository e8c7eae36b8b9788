"""Timings of each request of a load, and the figures that vLLM's summary does not have.

vLLM's detailed result has lists with an entry a request; kept are arrays, in a file of some kilobytes instead of
megabytes of JSON. Generated texts are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Lists of vLLM's detailed result that become arrays here or are left out.
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times")
DROPPED = ("generated_texts", "errors")


@dataclass(frozen=True, eq=False)
class Requests:
    """A row for each request of one repeat, in the order in which they were sent.

    Attributes:
        input_lens: prompt tokens.
        output_lens: generated tokens; 0 for a request that failed.
        good: whether it was answered to the end.
        ttft: seconds to the first token.
        latency: seconds to the last token.
        start: seconds on the client's clock.
        itl: seconds between tokens, of all requests one after another ...
        itl_counts: ... so many of each.
    """

    input_lens: Integers
    output_lens: Integers
    good: NDArray[np.bool_]
    ttft: Floats
    latency: Floats
    start: Floats
    itl: Floats
    itl_counts: Integers

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Requests:
        """Build from vLLM's detailed result."""
        itls = [list(gaps) for gaps in result["itls"]]
        latencies = result.get("latencies")
        if latencies is None:
            latencies = [first + sum(gaps) for first, gaps in zip(result["ttfts"], itls, strict=True)]
        # The error of a refusal is the reason that its status line gives, which may be none.
        good = [first > 0 and not error for first, error in zip(result["ttfts"], result["errors"], strict=True)]
        return cls(
            input_lens=np.asarray(result["input_lens"], np.int64),
            output_lens=np.asarray(result["output_lens"], np.int64),
            good=np.asarray(good, np.bool_),
            ttft=np.asarray(result["ttfts"], np.float64),
            latency=np.asarray(latencies, np.float64),
            start=np.asarray(result.get("start_times", [0.0] * len(itls)), np.float64),
            itl=np.asarray([gap for gaps in itls for gap in gaps], np.float64),
            itl_counts=np.asarray([len(gaps) for gaps in itls], np.int64),
        )

    @property
    def tpot(self) -> Floats:
        """Seconds per output token after the first; NaN for a reply of one token."""
        tpot: Floats = (self.latency - self.ttft) / np.where(self.output_lens > 1, self.output_lens - 1, np.nan)
        return tpot

    def latencies(self) -> dict[str, tuple[Floats, Integers]]:
        """Return each metric in milliseconds, with the number of values per answered request."""
        tpot = self.tpot
        timed = self.good & np.isfinite(tpot)
        kept = np.repeat(self.good, self.itl_counts)
        return {
            "ttft": _each(self.ttft[self.good]),
            "tpot": _each(tpot[timed]),
            "itl": (1000 * self.itl[kept], self.itl_counts[self.good]),
            "e2el": _each(self.latency[self.good]),
        }

    def where(self, chosen: NDArray[np.bool_]) -> Requests:
        """Return the chosen requests."""
        return Requests(
            **{
                field.name: getattr(self, field.name)[
                    np.repeat(chosen, self.itl_counts) if field.name == "itl" else chosen
                ]
                for field in fields(self)
            }
        )

    def meeting(self, limits: Mapping[str, float]) -> int:
        """Count the answered requests that meet all limits (`ttft_ms`, `tpot_ms`, `e2el_ms`, in milliseconds)."""
        met = self.good.copy()
        for name, limit in limits.items():
            met &= self._limited(name) <= limit
        return int(met.sum())

    def percentile(self, name: str, percentile: float) -> float:
        """Return a percentile of `ttft_ms`, `tpot_ms` or `e2el_ms`; a failed request counts as infinite."""
        return float(np.percentile(self.limited(name), percentile, method="higher"))

    def limited(self, name: str) -> Floats:
        """Return `ttft_ms`, `tpot_ms` or `e2el_ms` of each request; infinite of one that failed."""
        return np.where(self.good, self._limited(name), np.inf)

    def _limited(self, name: str) -> Floats:
        """Return a metric of the SLO in milliseconds; a one-token reply has TPOT 0, as in vLLM's goodput."""
        figures = {"ttft_ms": self.ttft, "tpot_ms": np.nan_to_num(self.tpot), "e2el_ms": self.latency}
        return 1000 * figures[name]

    def save(self, path: Path) -> None:
        """Write one compressed file of arrays."""
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Requests:
        """Read a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def _each(seconds: Floats) -> tuple[Floats, Integers]:
    """Return milliseconds, one per request."""
    return 1000 * seconds, np.ones(len(seconds), np.int64)


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result without its lists of one entry per request, but with the first errors."""
    kept = {name: value for name, value in result.items() if name not in (*DETAILS, *DROPPED)}
    errors = [str(error)[-400:] for error in result.get("errors", []) if error]
    return kept | {"first_errors": errors[:5]}
