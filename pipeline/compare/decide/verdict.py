"""The sentences that a comparison supports, made from its figures.

A sentence that claims a difference carries the differences it rests on, and each of them has an interval that excludes
zero. What cannot be told from noise is called that; a variant whose speed is emulated never appears in a claim about
speed. The first sentence answers the question of the report, the others say why, what was lost and what is not known.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.compare.comparison import Comparison, SizeCell
from pipeline.compare.decide.differences import (
    by_throughput,
    change_of,
    claim,
    clear,
    corrected,
    gains,
    is_scored,
    losses,
    stands_out,
    wins,
)
from pipeline.compare.decide.recommendation import Recommendation, recommend
from pipeline.compare.statements import Sentence, count, ends, in_points, listing, percent_range, plain, signed
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import THROUGHPUT, TPOT, TTFT


class Verdict(Frozen):
    """The answer, then everything that qualifies it."""

    answer: Sentence
    points: tuple[Sentence, ...]
    recommended: str | None


def judge(comparison: Comparison, model: str, machine: str, recommendation: Recommendation | None = None) -> Verdict:
    """What may be said about these results; without a recommendation, the one without constraints."""
    recommendation = recommendation or recommend(comparison)
    points = [
        *_faster(comparison),
        *_slower(comparison),
        *_looks(comparison),
        *_quality(comparison),
        *_divergence(comparison),
        *_smallest(comparison),
        *_emulated(comparison),
        *_marked(comparison),
        *_absent(comparison),
    ]
    if comparison.is_measured:
        points.append(_scope(comparison, model, machine))
    return Verdict(answer=recommendation.answer, points=tuple(points), recommended=recommendation.recommended)


def _faster(comparison: Comparison) -> Iterable[Sentence]:
    """What is measurably better than BF16 in throughput, with the latencies that moved."""
    for row in by_throughput(comparison):
        change = change_of(row, THROUGHPUT.name)
        if change is None or not gains(row):
            continue
        claims = [claim(row, THROUGHPUT.name, change)]
        parts = [f"{signed(change.percent)} % throughput ({percent_range(change)} %)"]
        for metric, name in ((TTFT, "mean TTFT"), (TPOT, "mean TPOT")):
            latency = change_of(row, metric.name)
            if latency is not None and latency.is_clear:
                claims.append(claim(row, metric.name, latency))
                parts.append(f"{signed(latency.percent)} % {name}")
        yield Sentence(kind="speed", text=f"{row.label}: {', '.join(parts)}.", claims=tuple(claims))


def _slower(comparison: Comparison) -> Iterable[Sentence]:
    slower = []
    for row in by_throughput(comparison):
        change = change_of(row, THROUGHPUT.name)
        if change is not None and change.is_clear and change.percent < 0:
            slower.append((row, change))
    if slower:
        parts = [f"{row.label} ({signed(change.percent)} %)" for row, change in slower]
        claims = tuple(claim(row, THROUGHPUT.name, change) for row, change in slower)
        yield Sentence(kind="speed", text=f"Lower throughput than BF16: {listing(parts)}.", claims=claims)
    noise = [
        row.label
        for row in by_throughput(comparison)
        if (change := change_of(row, THROUGHPUT.name)) is not None
        and change.interval is not None
        and not change.is_clear
    ]
    if noise:
        yield plain("speed", f"Throughput that cannot be told from BF16's: {listing(noise)}.")


def _looks(comparison: Comparison) -> Iterable[Sentence]:
    """What is left of the changes in throughput once they are corrected for their number."""
    p_values = corrected(comparison)
    if len(p_values) < 2:
        return
    found = [
        (row, change)
        for row in by_throughput(comparison)
        if stands_out(row, p_values) and (change := change_of(row, THROUGHPUT.name)) is not None
    ]
    left = "none is left"
    if found:
        words = ("that", "is") if len(found) == 1 else ("those", "are")
        left = f"{words[0]} of {listing(row.label for row, _ in found)} {words[1]} left"
    text = f"{_by_chance(len(p_values), 'throughput difference', comparison.level)}; "
    text += f"corrected for their number (Holm), {left}."
    yield Sentence(kind="speed", text=text, claims=tuple(claim(row, THROUGHPUT.name, change) for row, change in found))


def _by_chance(number: int, noun: str, level: float) -> str:
    """How many of so many intervals exclude zero where nothing differs."""
    verb = "was" if number == 1 else "were"
    looked = f"{count(number, noun)} {verb} looked at"
    return f"{looked}; at {100 * level:.0f} % about {number * (1 - level):.1f} would stand out by chance alone"


def _quality(comparison: Comparison) -> Iterable[Sentence]:
    kept = []
    for row in comparison.rows:
        if row.is_baseline:
            continue
        for word, chosen in (("lower", losses(row)), ("higher", wins(row))):
            if chosen:
                parts = [
                    f"{task} ({in_points(change.difference)} points, {ends(change)})" for task, change in chosen.items()
                ]
                claims = tuple(claim(row, task, change) for task, change in chosen.items())
                yield Sentence(
                    kind="quality", text=f"{row.label} scores {word} than BF16 on {listing(parts)}.", claims=claims
                )
        if clear(row):
            continue
        if is_scored(row):
            kept.append(row.label)
    if kept:
        yield plain("quality", f"Accuracy within noise of BF16 on every task: {listing(kept)}.")
    tested = [d for d in comparison.differences if isinstance(d[2], PairedDifference)]
    if tested:
        yield plain("quality", f"{_by_chance(len(tested), 'accuracy difference', comparison.level)}.")


def _divergence(comparison: Comparison) -> Iterable[Sentence]:
    """Which variant diverges least from BF16, and which most, where its interval is apart from all others'."""
    found = [
        (row.label, cell.kl.value, cell.kl.interval)
        for row in comparison.rows
        if not row.is_baseline and isinstance(cell := row.divergence, DivergenceCell) and cell.kl.interval is not None
    ]
    found.sort(key=lambda item: item[1])
    if len(found) < 2:
        return
    (least, lowest, around_least), (most, highest, around_most) = found[0], found[-1]
    parts = []
    if all(around_least.high < other.low for _, _, other in found[1:]):
        parts.append(f"least for {least} ({1000 * lowest:.3g} × 10⁻³ nats per token)")
    if all(around_most.low > other.high for _, _, other in found[:-1]):
        parts.append(f"most for {most} ({1000 * highest:.3g} × 10⁻³ nats per token)")
    if parts:
        yield plain("quality", f"KL divergence from BF16 is {listing(parts)}; the intervals of all others are apart.")


def _smallest(comparison: Comparison) -> Iterable[Sentence]:
    """Bytes are counted, not sampled: they need no interval."""
    sized = [(row, row.size) for row in comparison.rows if isinstance(row.size, SizeCell) and not row.is_baseline]
    smaller = [(row, size) for row, size in sized if isinstance(size.ratio, float) and size.ratio < 1]
    if smaller:
        least = min(size.bytes for _, size in smaller)
        names = listing(row.label for row, size in smaller if size.bytes == least)
        ratio = next(size.ratio for _, size in smaller if size.bytes == least)
        assert isinstance(ratio, float)
        yield plain("size", f"Smallest checkpoint: {names}, {ratio:.2f} of BF16's bytes.")


def _emulated(comparison: Comparison) -> Iterable[Sentence]:
    rows = [row.label for row in comparison.rows if row.emulated]
    if rows:
        yield plain(
            "caveat",
            f"Emulated on this machine, so no speed claim: {listing(rows)}. Their accuracy is that of the format.",
        )


def _marked(comparison: Comparison) -> Iterable[Sentence]:
    """Whose speed is doubtful; where BF16's is, every change is."""
    rows = [row for row in comparison.rows if row.marks]
    if rows:
        said = f"A guard speaks against the speed of {listing(row.label for row in rows)}, which the table marks"
        if rows[0].is_baseline:
            said += "; every change is one from BF16, so measure that again before you rely on any"
        yield plain("caveat", f"{said}.")


def _absent(comparison: Comparison) -> Iterable[Sentence]:
    for row in comparison.rows:
        reasons = dict.fromkeys(
            cell.reason for cell in (row.speed[THROUGHPUT.name], *row.tasks.values()) if isinstance(cell, Missing)
        )
        if reasons:
            said = "; ".join(reason.rstrip(".") for reason in reasons)
            yield plain("caveat", f"{row.label}: {said}{'' if said.endswith('…') else '.'}")


def _scope(comparison: Comparison, model: str, machine: str) -> Sentence:
    return plain("scope", f"Measured with {model} on {machine}; it holds for that machine, load and software.")
