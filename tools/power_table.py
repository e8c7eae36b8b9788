"""The table of `docs/deciding.md` on the power of the whole rule for a claim in speed: `make docs`.

A figure is exp(variant + seed + start + repeat) with the standard deviations of each. The power for one variant with a
true gain follows from the noncentral t, over the difference of two starts where each server is started once; winners
among identical variants are counted in simulated runs.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nct, norm

from pipeline.compare.speed_models import TOLERANCE_PERCENT
from pipeline.compare.stats.simultaneous import Dunnett
from tools.derived import rewrite

PAGE = Path(__file__).parents[1] / "docs" / "deciding.md"
MARKED = re.compile(r"(<!-- table: power -->\n).*?(<!-- end -->)", re.DOTALL)
RUNS, SEED = 20_000, 0
GAINS = (0.05, 0.10, 0.20)


class Design(NamedTuple):
    """Blocks, and repeats in each."""

    name: str
    blocks: int
    repeats: int


class Noise(NamedTuple):
    """Standard deviations of a repeat within a start, and between starts."""

    within: float
    start: float


DESIGNS = (
    Design("`quick`", 1, 3),
    Design("`study`, `ladder`", 2, 3),
    Design("`bench.repeats=5`", 2, 5),
    Design("`bench.blocks=3`", 3, 3),
)
NOISES = (Noise(0.01, 0.0), Noise(0.01, 0.01), Noise(0.01, 0.03), Noise(0.06, 0.01))
VARIANTS = (8, 20)


class Rule(NamedTuple):
    """The test of one design: a claim needs |difference| > critical * error + tolerance, error from `freedom`."""

    critical: float
    freedom: int
    tolerance: float


def rule(design: Design, variants: int) -> Rule:
    """Return the rule of `measurement_model` for a complete design."""
    units = design.repeats if design.blocks == 1 else design.blocks
    freedom = (variants - 1) * (units - 1)
    tolerance = math.log1p(TOLERANCE_PERCENT / 100) if design.blocks == 1 else 0.0
    return Rule(Dunnett(variants - 1).critical(freedom), freedom, tolerance)


def power(design: Design, noise: Noise, variants: int, gain: float) -> float:
    """Return the probability of showing a variant's true gain."""
    found, effect = rule(design, variants), math.log1p(gain)
    if design.blocks > 1:
        error = math.sqrt(2 * (noise.start**2 + noise.within**2 / design.repeats) / design.blocks)
        return float(nct.sf(found.critical, found.freedom, effect / error))
    error = noise.within * math.sqrt(2 / design.repeats)
    starts = np.linspace(-5, 5, 201)
    weights = norm.pdf(starts) / norm.pdf(starts).sum()
    shifted = (effect + starts * noise.start * math.sqrt(2) - found.tolerance) / error
    # The noncentral t is only tabulated where its value is not 0 or 1 to all digits.
    shown = nct.sf(found.critical, found.freedom, np.clip(shifted, -30, 30))
    return float(weights @ shown)


def winners(design: Design, noise: Noise, variants: int) -> float:
    """Return the share of runs of identical variants in which any is said to be faster."""
    dice, found = np.random.default_rng(SEED), rule(design, variants)
    shape = (RUNS, variants, design.blocks, 1)
    logs = dice.normal(0, noise.start, shape) + dice.normal(0, noise.within, (*shape[:3], design.repeats))
    units: NDArray[np.float64] = logs[:, :, 0] if design.blocks == 1 else logs.mean(axis=3)
    means = units.mean(axis=2, keepdims=True)
    residuals = units - means - units.mean(axis=1, keepdims=True) + units.mean(axis=(1, 2), keepdims=True)
    errors = np.sqrt((residuals**2).sum(axis=(1, 2)) / found.freedom * 2 / units.shape[2])
    best = means[:, 1:, 0].max(axis=1) - means[:, 0, 0]
    return float((best > found.critical * errors + found.tolerance).mean())


def table() -> str:
    """Return the table in Markdown."""
    head = ["benchmark", "blocks × repeats", "CV", "starts"]
    head += [f"+{100 * gain:.0f} %" for gain in GAINS] + ["+10 % of 20", "a winner among 8 equals", "of 20"]
    lines = [head, ["---"] * len(head)]
    for design in DESIGNS:
        for noise in NOISES:
            shown = [power(design, noise, VARIANTS[0], gain) for gain in GAINS]
            shown += [power(design, noise, VARIANTS[1], 0.10)]
            shown += [winners(design, noise, variants) for variants in VARIANTS]
            lines.append(
                [
                    design.name,
                    f"{design.blocks} × {design.repeats}",
                    f"{100 * noise.within:.0f} %",
                    f"{100 * noise.start:.0f} %",
                    *(f"{100 * share:.0f} %" for share in shown),
                ]
            )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str) -> str:
    """Return the page with the table regenerated."""
    return MARKED.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    rewrite(PAGE, page)
