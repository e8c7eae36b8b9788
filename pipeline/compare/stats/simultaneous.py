"""Tests of one or several differences of means with a common estimate of their noise, by deterministic quadrature.

Each test has a critical value c for the studentised difference t, at a level that holds for all of its comparisons
together, and the p-value that belongs to it:

* `Student`: m comparisons with Bonferroni's correction; m = 1 is Student's t,
* `Dunnett`: m comparisons with one control (C. Dunnett, J. Amer. Statist. Assoc. 50, 1955): the two-sided maximum of m
  correlated t,
* `Tukey`: all pairs of k means by the studentised range; where numbers of repeats differ, Tukey-Kramer, which is
  conservative (A. Hayter, Ann. Statist. 12, 1984).

See also Y. Hochberg, A. Tamhane, Multiple Comparison Procedures, 1987, chapters 2, 3 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, nctdtr, ndtr, ndtri, stdtr, stdtrit

from pipeline.compare.stats.intervals import LEVEL

POWER = 0.8
# Correlations above this are counted as this: the critical value becomes larger.
MAX_CORRELATION = 0.95
# Degrees of freedom above this are counted as infinite.
MANY = 10_000.0
_Z = np.linspace(-8.4, 8.4, 85)
_DENSITY = np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


class Test(Protocol):
    """A test of studentised differences."""

    def critical(self, freedom: float, level: float = LEVEL) -> float:
        """Return the value that |t| exceeds with probability 1 - level where nothing differs."""

    def p_value(self, t: float, freedom: float) -> float:
        """Return the two-sided p-value of a studentised difference."""


@dataclass(frozen=True)
class Student:
    """Student's t with Bonferroni's correction for `comparisons`."""

    comparisons: int = 1

    def critical(self, freedom: float, level: float = LEVEL) -> float:
        """Return the value that |t| exceeds with probability 1 - level where nothing differs."""
        upper = 1 - (1 - level) / (2 * self.comparisons)
        return float(ndtri(upper) if freedom >= MANY else stdtrit(freedom, upper))

    def p_value(self, t: float, freedom: float) -> float:
        """Return the two-sided p-value of a studentised difference."""
        tail = float(ndtr(-abs(t)) if freedom >= MANY else stdtr(freedom, -abs(t)))
        return min(1.0, 2 * self.comparisons * tail)


@dataclass(frozen=True)
class Dunnett:
    """Comparisons with one control.

    `correlation` is that of two differences: 1/2 where all have the same number of repeats. Where they vary, the
    smallest is to be given: the probability of the maximum rises with each correlation of this form (Z. Sidak, J. Amer.
    Statist. Assoc. 62, 1967), so that the critical value is too large rather than too small.
    """

    comparisons: int
    correlation: float = 0.5

    def critical(self, freedom: float, level: float = LEVEL) -> float:
        """Return the value that |t| exceeds with probability 1 - level where nothing differs."""
        return _dunnett_critical(self.comparisons, _rounded(self.correlation), min(freedom, MANY), level)

    def p_value(self, t: float, freedom: float) -> float:
        """Return the two-sided p-value of a studentised difference."""
        freedom = min(freedom, MANY)
        bound = Student(self.comparisons).p_value(t, freedom)
        p = 1 - _dunnett_cdf(abs(t), self.comparisons, _rounded(self.correlation), freedom)
        # Below the error of the quadrature, Bonferroni's bound is the better figure.
        return bound if p < 1e-7 else min(bound, p)


@dataclass(frozen=True)
class Tukey:
    """All pairs of `means` means."""

    means: int

    def critical(self, freedom: float, level: float = LEVEL) -> float:
        """Return the value that |t| exceeds with probability 1 - level where nothing differs."""
        return _tukey_critical(self.means, min(freedom, MANY), level)

    def p_value(self, t: float, freedom: float) -> float:
        """Return the two-sided p-value of a studentised difference."""
        bound = Student(self.means * (self.means - 1) // 2).p_value(t, freedom)
        p = 1 - _range_cdf(abs(t) * math.sqrt(2), self.means, min(freedom, MANY))
        return bound if p < 1e-7 else min(bound, p)


@lru_cache(maxsize=4096)
def detectable(critical: float, freedom: float, power: float = POWER) -> float:
    """Return the true difference, in standard errors, that exceeds `critical` with probability `power`.

    Source: the noncentral t (J. Cohen, Statistical Power Analysis, 1988, chapter 2), one of its two tails.
    """
    freedom = min(freedom, MANY)

    def missing(noncentrality: float) -> float:
        return 1 - float(nctdtr(freedom, noncentrality, critical)) - power

    # The median of the noncentral t is about its noncentrality.
    high = critical + 1
    while missing(high) < 0:
        high *= 1.5
    return _root(missing, 0.0, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    # scipy.optimize is loaded when it is needed.
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-8))


def _rounded(correlation: float) -> float:
    """Return a correlation rounded down to hundredths, which keeps the number of quadratures small."""
    return math.floor(100 * min(max(correlation, 0.0), MAX_CORRELATION) + 1e-6) / 100


@lru_cache(maxsize=4096)
def _dunnett_critical(comparisons: int, correlation: float, freedom: float, level: float) -> float:
    single, bonferroni = Student().critical(freedom, level), Student(comparisons).critical(freedom, level)
    if comparisons == 1:
        return single

    def excess(c: float) -> float:
        return _dunnett_cdf(c, comparisons, correlation, freedom) - level

    return _root(excess, single * 0.999, bonferroni * 1.001)


def _dunnett_cdf(c: float, comparisons: int, correlation: float, freedom: float) -> float:
    """Return P(max |T_i| <= c), T_i = (sqrt(1 - r) Z_i + sqrt(r) Z_0) / S with S^2 ~ chi^2 / freedom."""
    scales, weights = _chi(freedom)
    shift, width = math.sqrt(correlation) * _Z, math.sqrt(1 - correlation)
    x = c * scales[:, None]
    inside = ndtr((x + shift) / width) - ndtr((-x + shift) / width)
    return float(weights @ (inside**comparisons @ _DENSITY))


@lru_cache(maxsize=256)
def _chi(freedom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of S = sqrt(chi^2 / freedom): Gauss-Legendre over its distribution function."""
    if freedom >= MANY:
        return np.ones(1), np.ones(1)
    # The square keeps nodes dense where S is small, as the density of one degree of freedom needs.
    u = ((_NODES + 1) / 2) ** 2
    weights = _WEIGHTS / 2 * 2 * np.sqrt(u)
    return np.sqrt(chdtri(freedom, 1 - u) / freedom), weights


@lru_cache(maxsize=4096)
def _tukey_critical(means: int, freedom: float, level: float) -> float:
    """Return the critical value of the studentised range, divided by sqrt(2) to be one of t."""
    single, bonferroni = Student().critical(freedom, level), Student(means * (means - 1) // 2).critical(freedom, level)
    if means == 2:
        return single

    def excess(c: float) -> float:
        return _range_cdf(c * math.sqrt(2), means, freedom) - level

    return _root(excess, single * 0.999, bonferroni * 1.001)


def _range_cdf(q: float, means: int, freedom: float) -> float:
    """Return P((max Z_i - min Z_i) / S <= q) of `means` standard normals, given the largest of them."""
    scales, weights = _chi(freedom)
    inside = ndtr(_Z) - ndtr(_Z - q * scales[:, None])
    return float(weights @ (means * inside ** (means - 1) @ _DENSITY))
