"""Least squares of the additive model y = variant + cell, balanced or not: a randomised complete block analysis.

A cell is a seed of a block, or a block; every unit of it shares its effect. With missing units the estimates are those
of least squares (D. Montgomery, Design and Analysis of Experiments, 8th ed., 2013, sections 4.1 and 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from pipeline.compare.stats.intervals import LEVEL


class Unit(NamedTuple):
    """One experimental unit: a repeat, or the mean of a server's start, as a logarithm."""

    variant: str
    cell: Hashable
    value: float


class AdditiveFit:
    """The fit of units.

    Attributes:
        variants: names, in order of appearance.
        effects: by variant, up to a constant within each group of connected variants.
        residual_square: sum of squared residuals.
        freedom: residual degrees of freedom.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = tuple(units)
        self._row = {name: index for index, name in enumerate(dict.fromkeys(unit.variant for unit in units))}
        self.variants = tuple(self._row)
        column = {cell: index for index, cell in enumerate(dict.fromkeys(u.cell for u in units), len(self._row))}
        self._of = np.array([self._row[unit.variant] for unit in units], dtype=np.intp)
        cells = np.array([column[unit.cell] for unit in units], dtype=np.intp)
        values = np.array([unit.value for unit in units])
        values -= values.mean() if len(values) else 0.0
        design = np.zeros((len(units), len(self._row) + len(column)))
        every = np.arange(len(units))
        design[every, self._of] = design[every, cells] = 1
        # The pseudo-inverse of X'X gives estimates and variances of all estimable differences.
        weights, vectors = np.linalg.eigh(design.T @ design)
        kept = weights > 1e-9 * max(1, len(units))
        self._inverse: NDArray[np.float64] = (vectors[:, kept] / weights[kept]) @ vectors[:, kept].T
        solution = self._inverse @ (design.T @ values)
        self.effects: dict[str, float] = dict(zip(self.variants, solution.tolist(), strict=False))
        self._squared = (values - design @ solution) ** 2
        self.residual_square = float(self._squared.sum())
        self.freedom = len(units) - int(kept.sum())
        # One group in nearly all designs, whose rank lacks one.
        one = int(kept.sum()) == design.shape[1] - 1
        edges = [] if one else [(unit.variant, ("cell", unit.cell)) for unit in units]
        self._group: dict[Hashable, Hashable] = dict.fromkeys(self.variants) if one else _components(edges)

    @property
    def variance(self) -> float:
        """The residual variance of a unit."""
        return self.residual_square / self.freedom if self.freedom else math.nan

    def connected(self, *variants: str) -> bool:
        """Return True if all of them are in the fit, and their differences can be estimated."""
        return all(v in self._row for v in variants) and len({self._group[v] for v in variants}) == 1

    def difference(self, ours: str, theirs: str) -> float:
        """Return the estimated difference of two connected variants."""
        return self.effects[ours] - self.effects[theirs]

    def factor(self, ours: str, theirs: str) -> float:
        """Return the variance of their difference as a multiple of a unit's variance."""
        return float(self._covariance((ours,), theirs)[0, 0])

    def correlation(self, variants: Sequence[str], control: str) -> float:
        """Return the smallest correlation of two differences from a control; 1/2 if there are no two."""
        if len(variants) < 2:
            return 0.5
        covariance = self._covariance(variants, control)
        scale = np.sqrt(np.diag(covariance))
        return float((covariance / np.outer(scale, scale)).min())

    def means(self) -> dict[str, float]:
        """Return the mean of each variant with the effects of the cells removed, in the scale of the units."""
        # Effects are known up to a constant.
        shift = sum(unit.value - self.effects[unit.variant] for unit in self.units) / len(self.units)
        return {variant: effect + shift for variant, effect in self.effects.items()}

    def without(self, variants: Collection[str]) -> AdditiveFit:
        """Return the fit of all other variants."""
        return AdditiveFit([unit for unit in self.units if unit.variant not in variants])

    def only(self, *variants: str) -> AdditiveFit:
        """Return the fit of these variants alone."""
        return AdditiveFit([unit for unit in self.units if unit.variant in variants])

    def noisiest(self, number: int) -> tuple[str, ...]:
        """Return the variants with the largest sums of squared residuals."""
        sums = np.bincount(self._of, self._squared, len(self.variants))
        return tuple(self.variants[index] for index in np.argsort(-sums, kind="stable")[:number])

    def _covariance(self, variants: Sequence[str], control: str) -> NDArray[np.float64]:
        contrasts = np.zeros((len(variants), len(self._inverse)))
        for index, variant in enumerate(variants):
            contrasts[index, self._row[variant]] += 1
            contrasts[index, self._row[control]] -= 1
        covariance: NDArray[np.float64] = contrasts @ self._inverse @ contrasts.T
        return covariance


def of_unequal_noise(fit: AdditiveFit, level: float = LEVEL) -> tuple[str, ...]:
    """Return the variants whose noise is larger than that of the others, so that a common variance would be unfair.

    The j noisiest are held against the rest for each j below half of the variants, by the F of what they add to the
    residual sum of squares (G. Chow, Econometrica 28, 1960), corrected by Bonferroni for the choice of j of k and for
    the number of j. Several disturbed variants do not mask each other, as they do in W. Cochran's largest variance.
    """
    k = len(fit.variants)
    tried = range(1, (k - 1) // 2 + 1)
    found: tuple[float, tuple[str, ...]] = (1.0, ())
    for number in tried:
        chosen = fit.noisiest(number)
        rest = fit.without(chosen)
        extra = fit.freedom - rest.freedom
        if rest.freedom < 1 or extra < 1 or fit.residual_square <= 0:
            continue
        added = (fit.residual_square - rest.residual_square) / extra
        ratio = added / rest.variance if rest.variance > 0 else float("inf")
        p = math.comb(k, number) * len(tried) * float(fdtrc(extra, rest.freedom, ratio))
        found = min(found, (p, chosen))
    return found[1] if found[0] < 1 - level else ()


def _components(edges: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, Hashable]:
    """Return the connected component of each node, named by one of its nodes."""
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for one, other in edges:
        parent[root(one)] = root(other)
    return {node: root(node) for node in parent}
