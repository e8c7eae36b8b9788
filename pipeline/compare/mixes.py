"""Mixes of formats beside formats that all Linears share: average bits, predicted and measured divergence from BF16.

The prediction of a mix is the sum of its groups' sensitivities, as if what rounding one group does were independent of
the others. How far that goes shows in the rank correlation of predicted and measured divergences (C. Spearman, Am. J.
Psychol. 15, 1904), which asks for no unit and no straight line; of few mixes it says nothing.

Two variants have read the same sequences, so their difference is paired: the interval is that of the bootstrap over
sequences (`stats.kl_divergence`), the p-value Student's over the same, corrected by Holm for all differences of the
report. A mix is off the frontier of bits and divergence if a variant that is not larger is shown to diverge less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import stdtr

from pipeline.compare.comparison import Comparison, Row, SizeCell
from pipeline.compare.stats.intervals import LEVEL, Interval, excludes_zero, holm
from pipeline.compare.stats.kl_divergence import DivergenceCell, Estimate, Floats, studentized
from pipeline.compare.stats.rank_correlation import rank_correlation
from pipeline.results.base import Frozen
from pipeline.results.mix import Mix

# Mixes that a rank correlation is computed of, at least.
ENOUGH = 12


class Difference(Frozen):
    """Divergence of a mix less that of a variant that is not larger, nats per token; `p_holm` of all differences."""

    mix: str
    other: str
    value: float
    interval: Interval | None
    p_holm: float = 0.0

    @property
    def word(self) -> str:
        """The difference in a word."""
        if not excludes_zero(self.interval) or self.p_holm > 1 - LEVEL:
            return "cannot tell"
        return "less" if self.value < 0 else "more"


class Placed(Frozen):
    """A variant by the average bits of the decoder's weights and its divergence from BF16; a mix has a prediction."""

    name: str
    label: str
    bits: float
    kl: Estimate
    predicted: float | None = None

    @property
    def is_mix(self) -> bool:
        """True if it is a mix of formats."""
        return self.predicted is not None


class Mixes(Frozen):
    """The mixes of a report.

    Attributes:
        choices: by variant.
        labels: by variant.
        placed: all variants with a size and a divergence, the smallest first.
        differences: of each mix from each variant of one format that is not larger.
        correlation: rank correlation of predicted and measured divergence over the mixes; None of too few.
    """

    choices: dict[str, Mix]
    labels: dict[str, str]
    placed: tuple[Placed, ...]
    differences: tuple[Difference, ...]
    correlation: float | None

    @property
    def off(self) -> tuple[str, ...]:
        """The mixes that are off the frontier of bits and divergence."""
        return tuple(dict.fromkeys(each.mix for each in self.differences if each.word == "more"))


def mixes(choices: Mapping[str, Mix], comparison: Comparison) -> Mixes | None:
    """Return what is known of the mixes of a report; None if there are none.

    Args:
        choices: by variant.
        comparison: of all variants.
    """
    if not choices:
        return None
    rows = {row.name: row for row in comparison.rows}
    placed = sorted(_placed(choices, comparison), key=lambda each: (each.bits, each.name))
    measured = [each for each in placed if each.is_mix]
    predicted = [each.predicted or 0.0 for each in measured]
    pairs = [(rows[m.name], rows[o.name]) for m in measured for o in placed if not o.is_mix and o.bits <= m.bits]
    p_holm = holm({(mix.name, other.name): _p_value(_lost(mix, other)) for mix, other in pairs})
    return Mixes(
        choices=dict(choices),
        labels={name: rows[name].label for name in choices if name in rows},
        placed=tuple(placed),
        differences=tuple(_difference(mix, other, p_holm[mix.name, other.name]) for mix, other in pairs),
        correlation=rank_correlation(predicted, [each.kl.value for each in measured])
        if len(measured) >= ENOUGH
        else None,
    )


def _placed(choices: Mapping[str, Mix], comparison: Comparison) -> list[Placed]:
    """Return the variants with a size and a divergence; what is beside the decoder's weights is taken from a mix."""
    sizes = {row.name: row.size.bytes for row in comparison.rows if isinstance(row.size, SizeCell)}
    known = next((name for name in choices if name in sizes), None)
    if known is None:
        return []
    weights = sum(group.weights for group in choices[known].groups)
    others = sizes[known] - sum(group.bytes for group in choices[known].groups)
    return [
        Placed(
            name=row.name,
            label=row.label,
            bits=choices[row.name].bits if row.name in choices else 8 * (sizes[row.name] - others) / weights,
            kl=row.divergence.kl,
            predicted=choices[row.name].kl if row.name in choices else None,
        )
        for row in comparison.rows
        # BF16's is that between two runs of its own.
        if row.name in sizes and not row.is_baseline and isinstance(row.divergence, DivergenceCell)
    ]


def _difference(mix: Row, other: Row, p_holm: float) -> Difference:
    lost, cell = _lost(mix, other), _cell(mix)
    # Tokens of each sequence are not stored beside the sums, so all count as one of mean length.
    low, high = studentized(lost[None], np.full_like(lost[None], cell.tokens / cell.sequences))
    interval = Interval(low=float(low[0]), high=float(high[0])) if low[0] < high[0] else None
    value = float(lost.sum() / cell.tokens)
    return Difference(mix=mix.name, other=other.name, value=value, interval=interval, p_holm=p_holm)


def _lost(mix: Row, other: Row) -> Floats:
    """Return the divergence of a mix less that of another variant, a sum over each sequence."""
    return np.subtract(_cell(mix).by_sequence, _cell(other).by_sequence)


def _cell(row: Row) -> DivergenceCell:
    assert isinstance(row.divergence, DivergenceCell)
    return row.divergence


def _p_value(lost: Floats) -> float:
    """Return the two-sided p-value of no difference by Student's t over sequences; 1 if they do not differ."""
    error = float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return 2 * float(stdtr(len(lost) - 1, -abs(float(lost.mean())) / error)) if error else 1.0
