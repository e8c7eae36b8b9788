"""Mixes beside single formats: their bits, paired differences of divergence, and the rank correlation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.comparison import Comparison, Row, SizeCell
from pipeline.compare.mixes import ENOUGH, mixes
from pipeline.compare.stats.kl_divergence import DivergenceCell, Estimate
from pipeline.results.base import Missing
from pipeline.results.mix import GroupChoice, Mix

NOTHING = Missing(reason="not measured")
WEIGHTS, OTHERS, SEQUENCES, TOKENS = 8_000, 500, 24, 240


def mix(bits: float, kl: float) -> Mix:
    group = GroupChoice(
        name="model.layers.0.mlp.up_proj",
        layer=0,
        modules=("model.layers.0.mlp.up_proj",),
        weights=WEIGHTS,
        format="W4A16",
        bytes=int(bits * WEIGHTS / 8),
        kl=kl,
        sensitivities={"W4A16": kl},
    )
    return Mix(budget=f"bits={bits:g}", bits=bits, kl=kl, tokens=100, groups=(group,))


def row(name: str, bits: float, sums: np.ndarray | None, is_baseline: bool = False) -> Row:
    divergence = NOTHING
    if sums is not None:
        kl = Estimate(value=float(sums.sum()) / TOKENS, interval=None)
        one = Estimate(value=1.0, interval=None)
        divergence = DivergenceCell(
            kl=kl,
            agreement=one,
            perplexity_ratio=one,
            by_position=(),
            worst_share=None,
            sequences=SEQUENCES,
            tokens=TOKENS,
            top_k=20,
            by_sequence=tuple(sums.tolist()),
        )
    return Row(
        name=name,
        label=name.upper(),
        family="other",
        is_baseline=is_baseline,
        emulated=(),
        size=SizeCell(bytes=int(bits * WEIGHTS / 8) + OTHERS, ratio=1.0),
        speed={},
        details={},
        marks=(),
        benchmarks={},
        kv_cache_tokens=None,
        ready_s=None,
        tasks={},
        mean_accuracy=NOTHING,
        mean_change=NOTHING,
        divergence=divergence,
        perplexity=None,
    )


def comparison(*rows: Row) -> Comparison:
    return Comparison(baseline="bf16", tasks=(), metrics=(), rows=rows, best={}, notes=())


def sums(mean: float, seed: int = 0) -> np.ndarray:
    # Sequences that are hard for one variant are hard for all.
    hard = np.random.default_rng(0).lognormal(0, 0.5, SEQUENCES)
    noise = np.random.default_rng(seed).lognormal(0, 0.05, SEQUENCES)
    return mean * hard * noise * TOKENS / SEQUENCES


def test_no_mixes_are_none() -> None:
    assert mixes({}, comparison(row("bf16", 16, None, is_baseline=True))) is None


def test_bits_are_those_of_the_decoders_weights() -> None:
    rows = [
        row("bf16", 16, sums(0.0), is_baseline=True),
        row("four", 4.25, sums(0.05, 1)),
        row("mixed", 5, sums(0.02, 2)),
    ]
    found = mixes({"mixed": mix(5, 0.03)}, comparison(*rows))
    assert [(each.name, each.bits, each.predicted) for each in found.placed] == [
        ("four", pytest.approx(4.25), None),
        ("mixed", 5, 0.03),
    ]
    assert found.labels == {"mixed": "MIXED"}


@pytest.mark.parametrize(
    ("mean", "word", "off"), [(0.02, "less", ()), (0.09, "more", ("mixed",)), (0.05, "cannot tell", ())]
)
def test_a_mix_is_compared_with_what_is_not_larger(mean: float, word: str, off: tuple[str, ...]) -> None:
    rows = [row("four", 4.25, sums(0.05, 1)), row("eight", 8, sums(0.001, 3)), row("mixed", 5, sums(mean, 2))]
    found = mixes({"mixed": mix(5, 0.03)}, comparison(*rows))
    (difference,) = found.differences
    assert (difference.mix, difference.other, difference.word) == ("mixed", "four", word)
    assert difference.value == pytest.approx(rows[2].divergence.kl.value - rows[0].divergence.kl.value)
    assert difference.interval.low < difference.value < difference.interval.high
    assert found.off == off


def test_one_difference_of_several_is_shown_by_its_corrected_p_value() -> None:
    """A mean of 0.46 of 24 differences that are 1 above or below it: t = 2.21, p = 0.037, and twice that of two."""
    base, around = np.full(SEQUENCES, 10.0), np.tile([1.0, -1.0], SEQUENCES // 2)
    p_value = stats.ttest_1samp(0.46 + around, 0).pvalue
    rows = [row("four", 4.25, base), row("mixed", 5, base + 0.46 + around), row("five", 4.75, base)]
    (alone,) = mixes({"mixed": mix(5, 0.03)}, comparison(*rows[:2])).differences
    assert (alone.word, alone.p_holm) == ("more", pytest.approx(p_value)) and alone.interval.low > 0
    found = mixes({"mixed": mix(5, 0.03)}, comparison(*rows))
    assert [(each.other, each.word, each.p_holm) for each in found.differences] == [
        (name, "cannot tell", pytest.approx(2 * p_value)) for name in ("four", "five")
    ]
    assert found.off == () and all(each.interval == alone.interval for each in found.differences)
    same = mixes({"mixed": mix(5, 0.03)}, comparison(row("four", 4.25, base), row("mixed", 5, base)))
    assert [(each.word, each.p_holm) for each in same.differences] == [("cannot tell", 1.0)]


def test_the_rank_correlation_needs_many_mixes() -> None:
    order = np.random.default_rng(3).permutation(ENOUGH)
    rows = [row(f"m{i}", 4 + i / 10, sums(0.01 * (1 + i), i)) for i in range(ENOUGH)]
    choices = {f"m{i}": mix(4 + i / 10, 0.02 * (1 + i) ** 2) for i in range(ENOUGH)}
    assert mixes(choices, comparison(*rows)).correlation == pytest.approx(1)
    shuffled = {f"m{i}": mix(4 + i / 10, 0.02 * (1 + int(order[i]))) for i in range(ENOUGH)}
    expected = np.corrcoef(order, np.arange(ENOUGH))[0, 1]
    assert mixes(shuffled, comparison(*rows)).correlation == pytest.approx(expected)
    del choices["m3"]
    assert mixes(choices, comparison(*[each for each in rows if each.name != "m3"])).correlation is None


def test_a_mix_that_was_not_measured_has_no_place() -> None:
    rows = [row("four", 4.25, sums(0.05, 1)), row("mixed", 5, None)]
    found = mixes({"mixed": mix(5, 0.03)}, comparison(*rows))
    assert [each.name for each in found.placed] == ["four"] and not found.differences and found.correlation is None
