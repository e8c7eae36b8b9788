"""The statements that a comparison supports, made from its figures.

A statement that claims a difference carries the differences it rests on, and each of them has an interval that excludes
zero. Differences within noise are called that; a variant whose speed is emulated never appears in a claim about speed.
The first statement answers the question of the report, the others give reasons, losses and limitations.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.compare.comparison import Comparison, SizeCell
from pipeline.compare.decide.differences import (
    by_throughput,
    change_of,
    claim,
    clear,
    gains,
    is_scored,
    losses,
    wins,
)
from pipeline.compare.decide.recommendation import Recommendation, recommend
from pipeline.compare.statements import Sentence, count, in_points, listing, percent_range, plain, points_range, signed
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.measurement_model import StartVariation
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import THROUGHPUT, TPOT, TTFT


class Verdict(Frozen):
    """The answer, then everything that qualifies it."""

    answer: Sentence
    points: tuple[Sentence, ...]
    recommended: str | None


def judge(comparison: Comparison, model: str, machine: str, recommendation: Recommendation | None = None) -> Verdict:
    """Return the verdict on these results; without a recommendation, the one without constraints."""
    recommendation = recommendation or recommend(comparison)
    points = [
        *_faster(comparison),
        *_slower(comparison),
        *_multiple_comparisons(comparison),
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
    """Yield the variants with clearly more throughput than BF16, with the latencies that changed."""
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
        yield plain("speed", f"Throughput within noise of BF16's: {listing(noise)}.")


def _multiple_comparisons(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the method by which several changes in throughput are claimed together, and the limit of one start."""
    changes = [
        change
        for row in comparison.rows
        if (change := change_of(row, THROUGHPUT.name)) is not None and change.interval is not None
    ]
    if len(changes) > 1:
        yield plain(
            "speed",
            f"The intervals of {len(changes)} throughput differences hold together at {100 * comparison.level:.0f} % "
            "(Dunnett's comparisons with BF16).",
        )
    if changes and changes[0].widened_percent:
        yield plain(
            "caveat",
            "Each server was started once, and two starts of one server differ: differences in speed are claimed only "
            f"beyond {changes[0].widened_percent:g} %. bench.blocks=2 measures that difference.",
        )
    if comparison.starts is not None:
        yield plain("speed", starts_text(comparison.starts))


def starts_text(starts: StartVariation) -> str:
    """Return the variation between starts in words."""
    most = "Two starts" if starts.starts == 2 else f"The most different of {starts.starts} starts"
    return (
        f"{most} of BF16 differ by {starts.control_percent:.1f} % in throughput; beyond what all variants of a block "
        f"share, the standard deviation of a start is {starts.start_percent:.1f} %, which the intervals include."
    )


def _by_chance(number: int, noun: str, level: float) -> str:
    """Return the expected number of intervals that exclude zero where nothing differs."""
    verb = "was" if number == 1 else "were"
    tested = f"{count(number, noun)} {verb} tested"
    return f"{tested}; at {100 * level:.0f} % about {number * (1 - level):.1f} would appear clear by chance alone"


def _quality(comparison: Comparison) -> Iterable[Sentence]:
    within_noise = []
    for row in comparison.rows:
        if row.is_baseline:
            continue
        for word, chosen in (("lower", losses(row)), ("higher", wins(row))):
            if chosen:
                parts = [
                    f"{task} ({in_points(change.difference)} points, {points_range(change)})"
                    for task, change in chosen.items()
                ]
                claims = tuple(claim(row, task, change) for task, change in chosen.items())
                yield Sentence(
                    kind="quality", text=f"{row.label} scores {word} than BF16 on {listing(parts)}.", claims=claims
                )
        if clear(row):
            continue
        if is_scored(row):
            within_noise.append(row.label)
    if within_noise:
        yield plain("quality", f"Accuracy within noise of BF16 on every task: {listing(within_noise)}.")
    tested = [d for d in comparison.differences if isinstance(d[2], PairedDifference)]
    if tested:
        yield plain("quality", f"{_by_chance(len(tested), 'accuracy difference', comparison.level)}.")


def _divergence(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the variants with least and most divergence from BF16, if their intervals are apart from all others'."""
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
    """Yield the smallest checkpoints; bytes are counted, not sampled, and need no interval."""
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
    """Yield the variants with failed guards; if BF16 is one of them, every change is doubtful."""
    rows = [row for row in comparison.rows if row.marks]
    if rows:
        text = f"A guard failed while measuring the speed of {listing(row.label for row in rows)}, marked in the table"
        if rows[0].is_baseline:
            text += "; every change is relative to BF16, so repeat that measurement before relying on any"
        yield plain("caveat", f"{text}.")


def _absent(comparison: Comparison) -> Iterable[Sentence]:
    for row in comparison.rows:
        reasons = dict.fromkeys(
            cell.reason for cell in (row.speed[THROUGHPUT.name], *row.tasks.values()) if isinstance(cell, Missing)
        )
        if reasons:
            text = "; ".join(reason.rstrip(".") for reason in reasons)
            yield plain("caveat", f"{row.label}: {text}{'' if text.endswith('…') else '.'}")


def _scope(comparison: Comparison, model: str, machine: str) -> Sentence:
    return plain("scope", f"Measured with {model} on {machine}; it holds for that machine, load and software.")
