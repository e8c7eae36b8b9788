"""Divergence of a variant's next-token distributions from BF16's on the same text: KL, agreement, perplexity ratio.

At each token both checkpoints have a distribution over the vocabulary, P of BF16 and Q of the variant. The
Kullback-Leibler divergence KL(P || Q) = sum P(x) log(P(x) / Q(x)) is the information in nats lost by using Q for P
(S. Kullback, R. Leibler, Ann. Math. Statist. 22, 1951). A server returns only the k likeliest tokens of each. So the
tokens that both return keep their probabilities, and all others are merged into one outcome with the remaining
probability. Merging outcomes can only lower a divergence (the data-processing inequality: T. Cover, J. Thomas, Elements
of Information Theory, 2nd ed., 2006, section 2.8; it is the log-sum inequality of section 2.7), so the figure is a
lower bound, and the closer to the exact value the more probability the k tokens have.

Tokens of one sequence are dependent, sequences are not: intervals are those of the studentized bootstrap over whole
sequences (P. Hall, Ann. Statist. 16, 1988). With 24 sequences whose divergences spread by a factor of 1.8 (2.5, 3.3) a
nominal 95 % covers 94 % (93 %, 90 %), and the bias-corrected and accelerated interval 92 % (89 %, 85 %). Each figure is
the ratio of two sums over sequences, of a quantity and of tokens. The perplexity ratio exp(mean(log P(token) - log
Q(token))) is resampled as a logarithm. Both checkpoints read the same sequences, so all figures are paired.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.results.base import Frozen, Missing
from pipeline.results.records import DivergenceSums, Logprobs

RESAMPLES = 4999
SEED = 0
QUARTERS = 4
WORST = 0.01
# Rounding error of a float32 log-softmax in the remaining probability. It is added to both remainders: by the log-sum
# inequality that only lowers the bound, and the logarithm stays finite.
ROUNDING = 1e-6
# The comparison of top tokens needs k * k values per position.
ROWS_AT_A_TIME = 8192

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


class Estimate(Frozen):
    """A figure with its interval; None if sequences are too few or do not differ."""

    value: float
    interval: Interval | None


class DivergenceCell(Frozen):
    """A variant against BF16, in nats per token.

    `by_position` and the like have the figure in each quarter of a sequence; `worst_share` is the share of the
    divergence in the worst 1 % of tokens; `by_sequence` is the sum over each sequence, nats; `top_probability` is
    BF16's mean probability of its `top_k` likeliest tokens: the closer to 1, the closer is the bound.
    """

    kl: Estimate
    agreement: Estimate
    perplexity_ratio: Estimate
    by_position: tuple[Estimate, ...]
    agreement_by_position: tuple[Estimate, ...] = ()
    perplexity_ratio_by_position: tuple[Estimate, ...] = ()
    worst_share: float | None
    sequences: int
    tokens: int
    top_k: int
    by_sequence: tuple[float, ...] = ()
    top_probability: float | None = None


def perplexity(measured: Logprobs | DivergenceSums) -> float:
    """Return the exponential of the mean negative log-probability of the text's tokens."""
    if isinstance(measured, DivergenceSums):
        return measured.perplexity
    return math.exp(min(-float(measured.logprob.mean(dtype=np.float64)), 300.0))


def diverge(variant: Logprobs | DivergenceSums, reference: Logprobs | DivergenceSums) -> DivergenceCell | Missing:
    """Return the divergence of `variant` from `reference`, or why the two cannot be compared."""
    if isinstance(variant, Logprobs) and isinstance(reference, Logprobs):
        found = sums_of(variant, reference)
        return found if isinstance(found, Missing) else _estimates(found)
    if not (isinstance(variant, DivergenceSums) and isinstance(reference, DivergenceSums)):
        return Missing(reason="only the sums of one of the two were stored")
    if variant.reference != reference.reference:
        return Missing(reason="its stored sums are those against another BF16")
    return _estimates(variant)


def sums_of(variant: Logprobs, reference: Logprobs, digest: str = "") -> DivergenceSums | Missing:
    """Return all that a divergence is computed from, or why the two cannot be compared.

    Args:
        variant: log-probabilities of the variant.
        reference: those of BF16.
        digest: names the file of `reference` where the sums are stored.
    """
    for name in ("sequence", "position", "token"):
        if not np.array_equal(getattr(variant, name), getattr(reference, name)):
            return Missing(reason="the tokens differ from BF16's")
    kl = kl_by_token(variant, reference)
    _, sequence, lengths = np.unique(reference.sequence, return_inverse=True, return_counts=True)
    start = np.cumsum(lengths) - lengths
    quarter = (np.arange(len(kl)) - start[sequence]) * QUARTERS // lengths[sequence]

    def sums(column: Floats) -> Floats:
        cells = np.bincount(sequence * QUARTERS + quarter, column, len(lengths) * QUARTERS).astype(np.float64)
        return cells.reshape(len(lengths), QUARTERS)

    return DivergenceSums(
        reference=digest,
        tokens=sums(np.ones(len(kl))),
        kl=sums(kl),
        agrees=sums((first_choice(variant) == first_choice(reference)).astype(np.float64)),
        lost=sums(reference.logprob.astype(np.float64) - variant.logprob.astype(np.float64)),
        worst=float(np.sort(kl)[-math.ceil(WORST * len(kl)) :].sum()),
        perplexity=perplexity(variant),
        top_k=min(variant.top_ids.shape[1], reference.top_ids.shape[1]),
        top_probability=min(1.0, float(np.exp(reference.top_logprobs.astype(np.float64)).sum(axis=1).mean())),
    )


def _estimates(sums: DivergenceSums) -> DivergenceCell:
    # Sequences of a few tokens cannot be split into quarters.
    quarters = list(sums.tokens.T) if sums.tokens.any(axis=0).all() else []
    figures = (sums.kl, sums.agrees, sums.lost)
    values = [each.sum(axis=1) for each in figures]
    values += [part for each in figures for part in each.T] if quarters else []
    mean, agreement, log_ratio, *parts = _ratios(
        np.stack(values), np.stack([sums.tokens.sum(axis=1)] * len(figures) + quarters * len(figures))
    )
    by_position, agreement_by_position, log_ratio_by_position = (
        tuple(parts[index * len(quarters) : (index + 1) * len(quarters)]) for index in range(len(figures))
    )
    total = float(sums.kl.sum())
    return DivergenceCell(
        kl=mean,
        agreement=agreement,
        perplexity_ratio=_exponential(log_ratio),
        by_position=by_position,
        agreement_by_position=agreement_by_position,
        perplexity_ratio_by_position=tuple(_exponential(each) for each in log_ratio_by_position),
        worst_share=sums.worst / total if total > 0 else None,
        sequences=len(sums.tokens),
        tokens=round(float(sums.tokens.sum())),
        top_k=sums.top_k,
        by_sequence=tuple(float(f"{each:.7g}") for each in values[0].tolist()),
        top_probability=sums.top_probability,
    )


def kl_by_token(variant: Logprobs, reference: Logprobs) -> Floats:
    """Return the lower bound of KL(reference || variant) at each token."""
    rows = [
        _kl(
            reference.top_ids[start : start + ROWS_AT_A_TIME],
            reference.top_logprobs[start : start + ROWS_AT_A_TIME].astype(np.float64),
            variant.top_ids[start : start + ROWS_AT_A_TIME],
            variant.top_logprobs[start : start + ROWS_AT_A_TIME].astype(np.float64),
        )
        for start in range(0, len(reference.token), ROWS_AT_A_TIME)
    ]
    return np.concatenate(rows)


def first_choice(logprobs: Logprobs) -> Ints:
    """Return the likeliest token at each position; ties go to the smallest id."""
    best = logprobs.top_logprobs == logprobs.top_logprobs.max(axis=1, keepdims=True)
    chosen: Ints = np.where(best, logprobs.top_ids, np.iinfo(np.int32).max).min(axis=1)
    return chosen


def _kl(p_ids: Ints, p_logs: Floats, q_ids: Ints, q_logs: Floats) -> Floats:
    same = p_ids[:, :, None] == q_ids[:, None, :]
    shared = same.any(axis=2)
    log_q = np.take_along_axis(q_logs, same.argmax(axis=2), axis=1)
    p, q = np.where(shared, np.exp(p_logs), 0.0), np.where(shared, np.exp(log_q), 0.0)
    named = np.where(shared, p * (p_logs - log_q), 0.0).sum(axis=1)
    rest_p = np.maximum(1 - p.sum(axis=1), 0.0) + ROUNDING
    rest_q = np.maximum(1 - q.sum(axis=1), 0.0) + ROUNDING
    # A divergence is never negative; rounding of the remainders may make it so.
    bound: Floats = np.maximum(named + rest_p * np.log(rest_p / rest_q), 0.0)
    return bound


def _ratios(sums: Floats, tokens: Floats) -> list[Estimate]:
    """Return the ratio of two sums over sequences for each row, with its interval; all rows share one resampling."""
    values = sums.sum(axis=1) / tokens.sum(axis=1)
    low, high = studentized(sums, tokens)
    return [
        Estimate(value=value, interval=Interval(low=min(start, value), high=max(end, value)) if start < end else None)
        for value, start, end in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def studentized(sums: Floats, tokens: Floats) -> tuple[Floats, Floats]:
    """Return the bounds of the studentized bootstrap interval of each row's ratio.

    The error of a ratio R of sums s and t over n sequences is that of its linearization, the root of
    n / (n - 1) sum (s - R t)^2, divided by sum t (W. Cochran, Sampling Techniques, 3rd ed., 1977, section 6.4); the
    factor n / (n - 1) cancels. All moments of a resample are products with its counts of draws.

    Args:
        sums: shape (rows, sequences), a quantity summed over each sequence's tokens.
        tokens: same shape, the denominators.

    Returns:
        lower and upper bounds, shape (rows,); NaN if sequences do not differ.
    """
    number = sums.shape[1]
    draws = np.random.default_rng(SEED).multinomial(number, np.full(number, 1 / number), size=RESAMPLES).T

    def ratio_and_error(count: NDArray[np.int64]) -> tuple[Floats, Floats]:
        total, weight = sums @ count, tokens @ count
        ratio = total / weight
        squares = sums**2 @ count - 2 * ratio * ((sums * tokens) @ count) + ratio**2 * (tokens**2 @ count)
        return ratio, np.sqrt(squares) / weight

    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, error = ratio_and_error(np.ones((number, 1), dtype=np.int64))
        drawn, spread = ratio_and_error(draws)
        # Where the drawn sequences are alike, rounding leaves a share of about 1e-8, or the root of a negative number.
        negligible = spread <= 1e-6 * np.maximum(np.abs(drawn), np.abs(ratio))
        pivots = np.where(negligible, math.nan, (drawn - ratio) / spread)
    low, high = np.full(len(sums), math.nan), np.full(len(sums), math.nan)
    for row, pivot in enumerate(pivots):
        # Resamples of a single sequence have no error; few of them do not matter.
        known = pivot[np.isfinite(pivot)]
        if len(known) > RESAMPLES // 2:
            lower, upper = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            low[row], high[row] = ratio[row, 0] - upper * error[row, 0], ratio[row, 0] - lower * error[row, 0]
    return low, high


def _exponential(log_ratio: Estimate) -> Estimate:
    # Beyond e^300 the figure has no meaning; the cap keeps it finite.
    def grow(value: float) -> float:
        return math.exp(min(value, 300.0))

    ends = log_ratio.interval
    interval = None if ends is None else Interval(low=grow(ends.low), high=grow(ends.high))
    return Estimate(value=grow(log_ratio.value), interval=interval)
