"""Probability that one of two variants is the faster after all blocks, as far as those so far tell.

The logarithm of a block's throughput is the sum of an effect of the variant, one of the block, and noise: that of the
server's start and that of its repeats. Weighted least squares over all blocks, and the screen as one of them, estimate
the effects (H. Scheffe, The Analysis of Variance, 1959, chapter 4; two-way layout with one observation a cell). So the
screen keeps its part in the comparison, and what all variants have in a block in common cancels.

The mean over all blocks is that of those so far and of those that remain, each weighted by its number; the latter are
predicted with the variance of the estimate and their own (A. Gelman et al., Bayesian Data Analysis, 3rd ed., 2013,
section 14.3: normal, without prior knowledge of the effects).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from pipeline.results.base import Frozen

# The screen is a block with a number of its own.
SCREEN = -1
# Precision of each effect before any block, that of a factor of e^30: it leaves what cannot be compared open.
PRIOR = 1e-3


class Block(Frozen):
    """Throughput of a variant in one block: mean logarithm over its repeats, and the variance of that mean."""

    log_mean: float
    variance: float


class _Outlook(NamedTuple):
    """The mean of one variant over all blocks: its expectation, the share that remains, and the noise of that."""

    expected: float
    remaining: float
    noise: float


class SpeedChances:
    """Blocks of several variants, with the variance of a start's effect."""

    def __init__(
        self, seen: Mapping[str, Mapping[int, Block]], session: float, blocks: int, screen_share: float
    ) -> None:
        """Fit the effects.

        Args:
            seen: for each variant, its blocks by number, the screen among them.
            session: variance of the effect of a server's start.
            blocks: of each variant in all, without the screen.
            screen_share: repeats of the screen, by those of a block.
        """
        self.seen, self.session, self.blocks, self.screen_share = seen, session, blocks, screen_share
        self.place = {each: place for place, each in enumerate([*seen, *sorted({n for b in seen.values() for n in b})])}
        cells = [(name, number, block) for name, known in seen.items() for number, block in known.items()]
        design = np.zeros((len(cells), len(self.place)))
        for row, (name, number, _) in zip(design, cells, strict=True):
            row[[self.place[name], self.place[number]]] = 1
        weights = 1 / np.array([session + block.variance for *_, block in cells])
        # The general level is no effect of a variant.
        logs = np.array([block.log_mean for *_, block in cells])
        self.level = float(logs.mean())
        self.covariance = np.linalg.inv((design.T * weights) @ design + PRIOR * np.eye(len(self.place)))
        self.effects = self.covariance @ (design.T @ (weights * (logs - self.level)))

    def chance(self, name: str, other: str) -> float:
        """Return the probability that the mean of all blocks will show one variant faster than another."""
        one, two = self._outlook(name), self._outlook(other)
        places = [self.place[name], self.place[other]]
        (own, shared), (_, theirs) = self.covariance[np.ix_(places, places)].tolist()
        # Where one lacks more blocks, the estimate of the difference counts with the larger share.
        remaining = max(one.remaining, two.remaining)
        variance = remaining**2 * (own + theirs - 2 * shared) + one.noise + two.noise
        change = one.expected - two.expected
        return float(ndtr(change / math.sqrt(variance))) if variance else float(change > 0)

    def _outlook(self, name: str) -> _Outlook:
        known = {number: block for number, block in self.seen[name].items() if number != SCREEN}
        remaining = max(0.0, 1 - len(known) / self.blocks)
        expected = remaining * float(self.effects[self.place[name]])
        if known:
            gaps = [block.log_mean - self.level - self.effects[self.place[n]] for n, block in known.items()]
            expected += (1 - remaining) * float(np.mean(gaps))
            variance = float(np.mean([block.variance for block in known.values()]))
        else:
            variance = self.seen[name][SCREEN].variance * self.screen_share
        return _Outlook(expected, remaining, remaining / self.blocks * (self.session + variance))
