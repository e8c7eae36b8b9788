"""The sentences that a comparison supports, made from its figures.

A sentence that claims a difference carries the differences it rests on, and each of them has an interval that excludes
zero. What cannot be told from noise is called that; a variant whose speed is emulated never appears in a claim about
speed. The first sentence answers the question of the report, the others say why, what was lost and what is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.compare.accuracy import PairedDifference
from pipeline.compare.divergence import DivergenceCell
from pipeline.compare.estimates import Frozen, Interval, Missing
from pipeline.compare.repeats import Change, relative_change
from pipeline.compare.sentences import Claim, Sentence, count, ends, in_points, listing, percent_range, plain, signed
from pipeline.compare.table import THROUGHPUT, TPOT, TTFT, Comparison, Row, SizeCell, SpeedCell, TaskCell


class Verdict(Frozen):
    """The answer, then everything that qualifies it."""

    answer: Sentence
    points: tuple[Sentence, ...]
    recommended: str | None


def judge(comparison: Comparison, model: str, machine: str) -> Verdict:
    """What may be said about these results."""
    answer, recommended = _answer(comparison)
    points = [
        *_faster(comparison),
        *_slower(comparison),
        *_quality(comparison),
        *_divergence(comparison),
        *_smallest(comparison),
        *_emulated(comparison),
        *_absent(comparison),
    ]
    if comparison.is_measured:
        points.append(_scope(comparison, model, machine))
    return Verdict(answer=answer, points=tuple(points), recommended=None if recommended is None else recommended.name)


def _answer(comparison: Comparison) -> tuple[Sentence, Row | None]:
    baseline = _baseline(comparison)
    others = [row for row in comparison.rows if not row.is_baseline]
    if not comparison.is_measured:
        return plain("answer", "No verdict: nothing has been measured yet."), None
    if baseline is None:
        return plain("answer", "No verdict: without a BF16 result there is nothing to compare with."), None
    if not others:
        return plain("answer", "No verdict: BF16 is the only variant with results."), None
    timed = [row for row in others if row.claims_speed and _change(row, THROUGHPUT.name) is not None]
    if not timed:
        return _no_speed(others)
    faster = [row for row in timed if _gains(row)]
    if not faster:
        names = listing(row.label for row in timed)
        uncertain = all(_uncertain(row) for row in timed)
        reason = "a single run each, or identical ones, so nothing is known of their noise" if uncertain else ""
        text = f"No throughput gain over BF16 shows on this machine for {names}{f' ({reason})' if reason else ''}."
        return plain("answer", text), None
    safe = [row for row in faster if _scored(row) and not _losses(row)]
    if not safe:
        return _only_costly(faster)
    best = max(safe, key=_mean_throughput)
    return _recommend(best, safe), best


def _recommend(best: Row, safe: Sequence[Row]) -> Sentence:
    """The fastest of those without a measured loss, together with the ones it cannot be told from."""
    change = _change(best, THROUGHPUT.name)
    assert change is not None and change.interval is not None
    tied = [row for row in safe if row is not best and not _is_clearly_faster(best, row)]
    text = (
        f"{_serves_more(best, change)}, and no accuracy loss beyond noise was measured on "
        f"{count(len(best.tasks), 'task')}."
    )
    task, worst = min(_intervals(best).items(), key=lambda item: item[1].low)
    if worst.low < 0:
        text += f" A loss of up to {100 * -worst.low:.1f} points ({task}) is not ruled out."
    if tied:
        names = listing(row.label for row in tied)
        text += f" Its throughput cannot be told from that of {names}."
    return Sentence(kind="answer", text=text, claims=(_claim(best, THROUGHPUT.name, change),))


def _only_costly(faster: Sequence[Row]) -> tuple[Sentence, None]:
    """Faster formats exist, and none of them is known to keep the accuracy."""
    ordered = sorted(faster, key=_mean_throughput, reverse=True)
    claims = [_claim(row, task, loss) for row in ordered for task, loss in _losses(row).items()]
    for row in ordered:
        change = _change(row, THROUGHPUT.name)
        assert change is not None
        claims.append(_claim(row, THROUGHPUT.name, change))
    costly = [row.label for row in ordered if _losses(row)]
    unknown = [row.label for row in ordered if not _losses(row)]
    parts = ["No format is both faster and known to keep its accuracy here."]
    if costly:
        verbs = ("serves", "loses") if len(costly) == 1 else ("serve", "lose")
        names = listing(costly)
        parts.append(
            f"{names} {verbs[0]} more tokens per second than BF16 but {verbs[1]} accuracy on at least one task."
        )
    if unknown:
        verbs = ("serves", "has") if len(unknown) == 1 else ("serve", "have")
        names = listing(unknown)
        parts.append(f"{names} {verbs[0]} more tokens per second than BF16 but {verbs[1]} no complete accuracy result.")
    return Sentence(kind="answer", text=" ".join(parts), claims=tuple(claims)), None


def _no_speed(others: Sequence[Row]) -> tuple[Sentence, None]:
    """Nothing can be said about speed, so accuracy and size are what is left."""
    emulated = [row for row in others if not row.claims_speed]
    why = "the other formats are emulated on this machine" if emulated else "no format was timed against BF16"
    kept = [row for row in others if _scored(row) and not _losses(row)]
    text = f"No speed verdict: {why}."
    if kept:
        text += f" No accuracy loss beyond noise was measured for {listing(row.label for row in kept)}."
    return plain("answer", text), None


def _faster(comparison: Comparison) -> Iterable[Sentence]:
    """What is measurably better than BF16 in throughput, with the latencies that moved."""
    for row in _by_throughput(comparison):
        change = _change(row, THROUGHPUT.name)
        if change is None or not _gains(row):
            continue
        claims = [_claim(row, THROUGHPUT.name, change)]
        parts = [f"{signed(change.percent)} % throughput ({percent_range(change)} %)"]
        for metric, name in ((TTFT, "mean TTFT"), (TPOT, "mean TPOT")):
            latency = _change(row, metric.name)
            if latency is not None and latency.is_clear:
                claims.append(_claim(row, metric.name, latency))
                parts.append(f"{signed(latency.percent)} % {name}")
        yield Sentence(kind="speed", text=f"{row.label}: {', '.join(parts)}.", claims=tuple(claims))


def _slower(comparison: Comparison) -> Iterable[Sentence]:
    slower = []
    for row in _by_throughput(comparison):
        change = _change(row, THROUGHPUT.name)
        if change is not None and change.is_clear and change.percent < 0:
            slower.append((row, change))
    if slower:
        parts = [f"{row.label} ({signed(change.percent)} %)" for row, change in slower]
        claims = tuple(_claim(row, THROUGHPUT.name, change) for row, change in slower)
        yield Sentence(kind="speed", text=f"Lower throughput than BF16: {listing(parts)}.", claims=claims)
    noise = [
        row.label
        for row in _by_throughput(comparison)
        if (change := _change(row, THROUGHPUT.name)) is not None and change.interval is not None and not change.is_clear
    ]
    if noise:
        yield plain("speed", f"Throughput that cannot be told from BF16's: {listing(noise)}.")


def _quality(comparison: Comparison) -> Iterable[Sentence]:
    kept = []
    for row in comparison.rows:
        if row.is_baseline:
            continue
        for word, chosen in (("lower", _losses(row)), ("higher", _wins(row))):
            if chosen:
                parts = [
                    f"{task} ({in_points(change.difference)} points, {ends(change)})" for task, change in chosen.items()
                ]
                claims = tuple(_claim(row, task, change) for task, change in chosen.items())
                yield Sentence(
                    kind="quality", text=f"{row.label} scores {word} than BF16 on {listing(parts)}.", claims=claims
                )
        if _clear(row):
            continue
        if _scored(row):
            kept.append(row.label)
    if kept:
        yield plain("quality", f"Accuracy within noise of BF16 on every task: {listing(kept)}.")
    tested = [d for d in comparison.differences if isinstance(d[2], PairedDifference)]
    if tested:
        chance = len(tested) * (1 - comparison.level)
        yield plain(
            "quality",
            f"{count(len(tested), 'accuracy difference')} {'was' if len(tested) == 1 else 'were'} looked at; "
            f"at {100 * comparison.level:.0f} % about {chance:.1f} would stand out by chance alone.",
        )


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


def _absent(comparison: Comparison) -> Iterable[Sentence]:
    for row in comparison.rows:
        reasons = dict.fromkeys(
            cell.reason for cell in (row.speed[THROUGHPUT.name], *row.tasks.values()) if isinstance(cell, Missing)
        )
        if reasons:
            yield plain("caveat", f"{row.label}: {'; '.join(reason.rstrip('.…') for reason in reasons)}.")


def _scope(comparison: Comparison, model: str, machine: str) -> Sentence:
    return plain("scope", f"Measured with {model} on {machine}; it holds for that machine, load and software.")


def _baseline(comparison: Comparison) -> Row | None:
    return next((row for row in comparison.rows if row.is_baseline), None)


def _change(row: Row, metric: str) -> Change | None:
    """A change that may be talked about: not of an emulated variant."""
    cell = row.speed.get(metric)
    if not row.claims_speed or not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return None
    return cell.change


def _gains(row: Row) -> bool:
    change = _change(row, THROUGHPUT.name)
    return change is not None and change.is_clear and change.percent > 0


def _uncertain(row: Row) -> bool:
    change = _change(row, THROUGHPUT.name)
    return change is not None and change.interval is None


def _intervals(row: Row) -> dict[str, Interval]:
    return {task: change.interval for task, change in _paired(row).items() if change.interval is not None}


def _paired(row: Row) -> dict[str, PairedDifference]:
    return {
        task: cell.change
        for task, cell in row.tasks.items()
        if isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference)
    }


def _scored(row: Row) -> bool:
    """Whether every task was compared with BF16, with an interval."""
    return bool(row.tasks) and len(_intervals(row)) == len(row.tasks)


def _clear(row: Row) -> dict[str, PairedDifference]:
    return {task: change for task, change in _paired(row).items() if change.is_clear}


def _losses(row: Row) -> dict[str, PairedDifference]:
    return {task: change for task, change in _clear(row).items() if change.difference < 0}


def _wins(row: Row) -> dict[str, PairedDifference]:
    return {task: change for task, change in _clear(row).items() if change.difference > 0}


def _is_clearly_faster(row: Row, other: Row) -> bool:
    ours, theirs = row.speed[THROUGHPUT.name], other.speed[THROUGHPUT.name]
    if not isinstance(ours, SpeedCell) or not isinstance(theirs, SpeedCell):
        return False
    change = relative_change(ours.measured.values, theirs.measured.values)
    return isinstance(change, Change) and change.is_clear and change.percent > 0


def _mean_throughput(row: Row) -> float:
    cell = row.speed[THROUGHPUT.name]
    return cell.measured.mean if isinstance(cell, SpeedCell) else 0.0


def _by_throughput(comparison: Comparison) -> list[Row]:
    return sorted((row for row in comparison.rows if not row.is_baseline), key=_mean_throughput, reverse=True)


def _claim(row: Row, column: str, change: Change | PairedDifference) -> Claim:
    assert change.interval is not None
    return Claim(variant=row.name, against="bf16", column=column, interval=change.interval)


def _serves_more(row: Row, change: Change) -> str:
    around = percent_range(change)
    return f"{row.label} serves {change.percent:.1f} % more tokens per second than BF16 (95 % interval {around} %)"
