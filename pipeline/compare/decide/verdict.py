"""The statements that a comparison supports, made from its figures.

A statement that claims a difference carries the differences it rests on, and each of them has an interval that excludes
zero. Losses of accuracy are those of the table's verdicts (`stats.noninferiority`). Differences in speed within noise
are called that, and those measured while a guard failed are not claimed.
The first statement answers the question of the report, the others give reasons, losses and limitations.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.compare.comparison import Comparison, Row, SizeCell
from pipeline.compare.decide.constraints import cut_text
from pipeline.compare.decide.differences import by_throughput, change_of, claim, gains
from pipeline.compare.decide.gpus import divided
from pipeline.compare.decide.losses import is_no_worse, is_scored, losses, lowered, scored, wins
from pipeline.compare.decide.open_accuracy import blind_tasks
from pipeline.compare.decide.recommendation import Recommendation, recommend
from pipeline.compare.statements import Sentence, in_points, listing, percent_range, plain, points_range, signed
from pipeline.compare.stats.kl_divergence import DivergenceCell
from pipeline.compare.stats.measurement_model import StartVariation
from pipeline.compare.stats.noninferiority import points
from pipeline.compare.stats.sample_size import LEVEL
from pipeline.compare.words import is_reliable
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import TPOT, TTFT
from pipeline.results.text import by_reason


class Verdict(Frozen):
    """The answer, then everything that qualifies it."""

    answer: Sentence
    points: tuple[Sentence, ...]
    recommended: str | None


def judge(comparison: Comparison, model: str, machine: str, recommendation: Recommendation | None = None) -> Verdict:
    """Return the verdict on these results; without a recommendation, the one without constraints."""
    recommendation = recommendation or recommend(comparison)
    points = [
        *divided(comparison),
        *_faster(comparison),
        *_slower(comparison),
        *_multiple_comparisons(comparison),
        *_quality(comparison),
        *_ran_on(comparison),
        *_margins(comparison),
        *_divergence(comparison),
        *_smallest(comparison),
        *_marked(comparison),
        *_absent(comparison),
    ]
    if comparison.is_measured:
        points.append(_scope(comparison, model, machine))
    return Verdict(answer=recommendation.answer, points=tuple(points), recommended=recommendation.recommended)


def _faster(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the variants with clearly more throughput than BF16, with the latencies that changed."""
    for row in _reliable(comparison):
        change = change_of(row, row.throughput)
        if change is None or not gains(row):
            continue
        claims = [claim(row, row.throughput, change)]
        parts = [f"{signed(change.percent)} % throughput{row.per_gpu} ({percent_range(change)} %)"]
        for metric, name in ((TTFT, "mean TTFT"), (TPOT, "mean TPOT")):
            latency = change_of(row, metric.name)
            if latency is not None and latency.is_clear:
                claims.append(claim(row, metric.name, latency))
                parts.append(f"{signed(latency.percent)} % {name}")
        yield Sentence(kind="speed", text=f"{row.label}: {', '.join(parts)}.", claims=tuple(claims))


def _slower(comparison: Comparison) -> Iterable[Sentence]:
    slower, reliable = [], _reliable(comparison)
    for row in reliable:
        change = change_of(row, row.throughput)
        if change is not None and change.is_clear and change.percent < 0:
            slower.append((row, change))
    if slower:
        parts = [f"{row.label} ({signed(change.percent)} %)" for row, change in slower]
        claims = tuple(claim(row, row.throughput, change) for row, change in slower)
        yield Sentence(
            kind="speed", text=f"Lower throughput{slower[0][0].per_gpu} than BF16: {listing(parts)}.", claims=claims
        )
    noise = [
        row.label
        for row in reliable
        if (change := change_of(row, row.throughput)) is not None
        and change.interval is not None
        and not change.is_clear
    ]
    if noise:
        yield plain("speed", f"Cannot tell from BF16 in throughput: {listing(noise)}.")


def _reliable(comparison: Comparison) -> list[Row]:
    """Return the variants whose difference in speed from BF16 may be claimed, the fastest first."""
    return [row for row in by_throughput(comparison) if is_reliable(comparison, row)]


def _multiple_comparisons(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the method by which several changes in throughput are claimed together, and the limit of one start."""
    changes = [
        change
        for row in comparison.rows
        if (change := change_of(row, row.throughput)) is not None and change.interval is not None
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


def _quality(comparison: Comparison) -> Iterable[Sentence]:
    """Yield losses and gains that are shown, then the verdicts of *no worse*, and how far these reach."""
    for row in comparison.rows:
        if row.is_baseline:
            continue
        for text, chosen in (
            ("{} is worse than BF16 by more than the margin on", losses(row)),
            ("{} scores lower than BF16, by less or more than the margin, on", lowered(row)),
            ("{} scores higher than BF16 on", wins(row)),
        ):
            if chosen:
                parts = [
                    f"{task} ({in_points(change.difference)} points, {points_range(change)})"
                    for task, change in chosen.items()
                ]
                claims = tuple(claim(row, task, change) for task, change in chosen.items())
                yield Sentence(kind="quality", text=f"{text.format(row.label)} {listing(parts)}.", claims=claims)
    judged = [row for row in comparison.rows if not row.is_baseline and is_scored(row)]
    harmless = [row.label for row in judged if is_no_worse(row)]
    if harmless:
        yield plain("quality", f"No worse than BF16 on every task: {listing(harmless)}.")
    if undecided := [row.label for row in judged if not losses(row) and not is_no_worse(row)]:
        yield plain("quality", f"Not known to be no worse on every task: {listing(undecided)}.")
    if len(judged) > 1:
        yield plain(
            "quality",
            f"Losses beyond the margin are corrected for all comparisons of the table. No worse holds for each variant "
            f"by itself: of {len(judged)} that lose just their margin, {LEVEL * len(judged):.2g} would be called no "
            "worse by chance.",
        )


def _ran_on(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the variants whose answers reach the token limit more often than BF16's."""
    for row in comparison.rows:
        for task, cell in scored(row).items():
            if cell.cut is not None and cell.cut.is_more:
                yield plain("quality", f"{cut_text(row, task, cell.cut)}.")


def _margins(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the tasks whose set is too small for the usual margin, and those that cannot show a loss."""
    for task, margin in comparison.margins.items():
        if not any(task in scored(row) for row in comparison.rows) or margin.available is None:
            continue
        never_shown = margin.never_shown or 0.0
        never = f"a loss below {100 * never_shown:.1f} points not even by identical answers"
        if margin.is_widened:
            text = f"{task} has {margin.available:,} items, which can rarely rule out a loss below "
            yield plain("caveat", f"{text}{points(margin.margin)}, its margin here, and {never}.")
        elif never_shown >= margin.margin:
            text = (
                f"{task}: no set of {margin.available:,} items can rule out a loss of {points(margin.margin)}; {never}."
            )
            yield plain("caveat", text)
    if blind := blind_tasks(comparison.rows):
        yield plain("caveat", f"BF16 itself is near chance on {listing(blind)}: no loss can be seen there.")


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
    smaller = [
        (row.size.bytes, row.size.ratio, row.label)
        for row in comparison.rows
        if isinstance(row.size, SizeCell) and isinstance(row.size.ratio, float) and row.size.ratio < 1
    ]
    if smaller:
        least, ratio, _ = min(smaller)
        names = listing(label for size, _, label in smaller if size == least)
        yield plain("size", f"Smallest checkpoint: {names}, {ratio:.2f} of BF16's bytes.")


def _marked(comparison: Comparison) -> Iterable[Sentence]:
    """Yield the variants with failed guards; if BF16 is one of them, every change is doubtful."""
    rows = [row for row in comparison.rows if row.marks]
    if rows:
        text = f"A guard failed while measuring the speed of {listing(row.label for row in rows)}, so it is unreliable"
        if rows[0].is_baseline:
            text += "; every change is relative to BF16, so repeat that measurement before relying on any"
        yield plain("caveat", f"{text}.")


def _absent(comparison: Comparison) -> Iterable[Sentence]:
    """Yield why figures are missing, the variants of one reason together."""
    for text, labels in by_reason((row.label, _why_absent(row)) for row in comparison.rows).items():
        if text:
            yield plain("caveat", f"{listing(labels)}: {text}{'' if text.endswith('…') else '.'}")


def _why_absent(row: Row) -> str:
    """Return why a variant's figures are missing; empty if none is."""
    cells = (row.speed[row.throughput], *row.tasks.values())
    reasons = dict.fromkeys(cell.reason for cell in cells if isinstance(cell, Missing))
    return "; ".join(reason.rstrip(".") for reason in reasons)


def _scope(comparison: Comparison, model: str, machine: str) -> Sentence:
    return plain("scope", f"Measured with {model} on {machine}; it holds for that machine, load and software.")
