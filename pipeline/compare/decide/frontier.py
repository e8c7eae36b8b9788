"""Quality against cost: variants on the Pareto frontier, off it, and those that cannot be told.

Each frontier has two axes, one of quality and one of cost. On each axis, the difference of two variants tells if one is
clearly better, and if it is clearly no worse: a loss of the margin or more is ruled out.

* **off**: another variant dominates it: clearly better on one axis and clearly no worse on the other,
* **on**: against each other variant it is clearly better on at least one axis, so none dominates it,
* **cannot tell**: neither was shown.

Of two variants at most one can dominate the other, since a clear gain of one is a clear loss of the other.

*Clearly better* is corrected for all pairs of variants and all axes, so that among identical variants any is off any
frontier in at most 5 % of reports: accuracy has 2 % of that, split over the ordered pairs by C. Bonferroni, and each of
the three metrics of speed 1 %, simultaneous over all pairs (`differences.speed_between`). *No worse* is judged at a
one-sided 5 % for each variant that could be put off, split over the others that could do so; for accuracy it is the
criterion of `stats.noninferiority`: each task at its margin, and their mean. With one start of each server that holds
where starts differ by less than the tolerance, and a standing by speed says that it rests on one.

A variant whose speed was measured while a guard failed has no place on the frontiers of speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

from scipy.special import ndtri

from pipeline.compare.comparison import SIZE, Comparison, SizeCell, SpeedCell
from pipeline.compare.decide.differences import speed_between
from pipeline.compare.decide.open_accuracy import is_unclear
from pipeline.compare.statements import Claim, Sentence, listing, plain, signed, within_text
from pipeline.compare.stats.accuracy import Mean, PairedDifference, Scores, mean_over_tasks, paired_difference
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.noninferiority import TWO_SIDED, judge_mean, mean_margin, p_within
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import HEADLINE, Direction, MetricDefinition
from pipeline.results.records import Record
from pipeline.results.text import capitalized

Standing = Literal["on", "off", "cannot tell"]
ACCURACY = "mean_accuracy"


class Axis(Frozen):
    """An axis of the frontier: accuracy, a metric of the benchmark, or the checkpoint's size.

    `margin` is in the unit of differences: points for accuracy, percent otherwise.
    """

    name: str
    title: str
    unit: str
    better: Direction
    margin: float


class Place(Frozen):
    """The standing of one variant; `beaten_by`: variants that dominate it; `rivals`: variants that may."""

    name: str
    label: str
    standing: Standing
    beaten_by: tuple[str, ...]
    rivals: tuple[str, ...]
    statement: Sentence


class Frontier(Frozen):
    """All variants with both figures; `absent` has the reason for each of the others."""

    quality: Axis
    cost: Axis
    level: float = LEVEL
    places: tuple[Place, ...]
    absent: dict[str, str]


class Difference(NamedTuple):
    """One variant minus another on one axis, with the sign such that positive is better.

    `interval` is the corrected one of *better*, None if unknown; `is_no_worse` the verdict at the margin;
    `qualification` the limit of a claim from one start of each server.
    """

    value: float
    interval: Interval | None
    is_no_worse: bool = False
    qualification: str = ""

    @property
    def is_better(self) -> bool:
        """True if clearly better."""
        return self.interval is not None and self.interval.low > 0


UNKNOWN = Difference(0.0, None)
# The share of errors that a report spends on claims of better accuracy, and of each metric of speed.
ACCURACY_LEVEL = 0.02
SPEED_LEVEL = 0.01
NO_WORSE_LEVEL = 0.05
Compare = Callable[[str, str], Difference]


def frontiers(records: Sequence[Record], comparison: Comparison, margin_percent: float) -> tuple[Frontier, ...]:
    """Compute the frontiers of mean accuracy against each metric of the benchmark, and against checkpoint size.

    Args:
        records: the results, item by item and repeat by repeat.
        comparison: the table of the same records, with the accepted loss on each task.
        margin_percent: loss of speed, or growth in size, that still counts as no worse.
    """
    accepted = 100 * mean_margin(list(comparison.margins.values()))
    quality = Axis(name=ACCURACY, title="Mean accuracy", unit="points", better="higher", margin=accepted)
    accuracy = _accuracies({record.name: record for record in records}, comparison)
    unscored = {row.name: row.mean_accuracy.reason for row in comparison.rows if isinstance(row.mean_accuracy, Missing)}
    found = []
    for column in (comparison.throughput, *HEADLINE[1:]):
        cost = Axis(name=column.name, title=column.title, unit="%", better=column.better, margin=margin_percent)
        absent = _untimed(comparison, column) | unscored
        speed = _speed_of(comparison, column, margin_percent, len(comparison.rows) - len(absent))
        found.append(_frontier(comparison, quality, cost, accuracy, speed, absent))
    size = Axis(name=SIZE, title="Checkpoint size", unit="%", better="lower", margin=margin_percent)
    unweighed = {row.name: row.size.reason for row in comparison.rows if isinstance(row.size, Missing)}
    found.append(
        _frontier(comparison, quality, size, accuracy, _size_of(comparison, margin_percent), unweighed | unscored)
    )
    return tuple(found)


def _frontier(
    comparison: Comparison, quality: Axis, cost: Axis, better: Compare, cheaper: Compare, absent: dict[str, str]
) -> Frontier:
    rows = [row for row in comparison.rows if row.name not in absent]
    labels = {row.name: row.label for row in rows}
    names = list(labels)
    places = []
    for name in names:
        others = [other for other in names if other != name]
        against = {other: (better(other, name), cheaper(other, name)) for other in others}
        beaten_by = [o for o, pair in against.items() if _beats(pair)]
        # A clear gain of one variant is a clear loss of the other.
        held_off = {o: (better(name, o), cheaper(name, o)) for o in others}
        rivals = [o for o in others if o not in beaten_by and not any(d.is_better for d in held_off[o])]
        standing: Standing = "off" if beaten_by else "cannot tell" if rivals else "on"
        places.append(
            Place(
                name=name,
                label=labels[name],
                standing=standing,
                beaten_by=tuple(beaten_by),
                rivals=tuple(rivals),
                statement=_statement(name, labels, (quality, cost), standing, beaten_by, rivals, against, held_off),
            )
        )
    return Frontier(quality=quality, cost=cost, places=tuple(places), absent=absent)


def _beats(pair: tuple[Difference, Difference]) -> bool:
    return any(d.is_better for d in pair) and all(d.is_better or d.is_no_worse for d in pair)


Pairs = Mapping[str, tuple[Difference, Difference]]


def _statement(
    name: str,
    labels: Mapping[str, str],
    axes: tuple[Axis, Axis],
    standing: Standing,
    beaten_by: Sequence[str],
    rivals: Sequence[str],
    against: Pairs,
    held_off: Pairs,
) -> Sentence:
    """Return the reason for the standing, with the differences that it rests on."""
    if standing == "off":
        parts, claims = [], []
        for other in beaten_by:
            gains = [(a, d) for a, d in zip(axes, against[other], strict=True) if d.is_better]
            parts.append(f"{labels[other]} ({listing(_gain(axis, difference) for axis, difference in gains)})")
            claims += [_claim(other, name, axis, d) for axis, d in gains]
        text = f"{labels[name]} is off: clearly better on one axis and no worse on the other is {listing(parts)}."
        text += _limits(d for other in beaten_by for d in against[other])
        return Sentence(kind="answer", text=text, claims=tuple(claims))
    if standing == "cannot tell":
        return plain(
            "answer", f"Cannot tell for {labels[name]}: {listing(labels[o] for o in rivals)} may be better or equal."
        )
    better = [
        (other, axis, d) for other, pair in held_off.items() for axis, d in zip(axes, pair, strict=True) if d.is_better
    ]
    if not better:
        return plain("answer", f"{labels[name]} is the only variant.")
    either = f"{within_text(axes[0].title)} or {within_text(axes[1].title)}"
    text = f"{labels[name]} is on the frontier: in {either} it is clearly better than each other variant."
    text += _limits(d for *_, d in better)
    return Sentence(kind="answer", text=text, claims=tuple(_claim(name, *each) for each in better))


def _limits(differences: Iterable[Difference]) -> str:
    """Return the qualifications of differences, each a sentence behind a space; empty if there is none."""
    limits = dict.fromkeys(each.qualification for each in differences)
    return "".join(f" {capitalized(limit)}." for limit in limits if limit)


def _gain(axis: Axis, difference: Difference) -> str:
    # Positive is better, so the sign of a metric that is better when lower is reversed back.
    value = difference.value if axis.better == "higher" else -difference.value
    return f"{signed(value)} {axis.unit} {within_text(axis.title)}"


def _claim(name: str, other: str, axis: Axis, difference: Difference) -> Claim:
    assert difference.interval is not None
    return Claim(variant=name, against=other, column=axis.name, interval=difference.interval)


def _accuracies(records: Mapping[str, Record], comparison: Comparison) -> Compare:
    """Return the comparison of mean accuracy: the paired differences over all tasks, in points."""
    scored = [row.name for row in comparison.rows if not isinstance(row.mean_accuracy, Missing)]
    others = len(scored) - 1

    @cache
    def changes(ours: str, theirs: str) -> list[PairedDifference] | None:
        found = []
        for task in comparison.tasks:
            one, other = (_scores(records[name], task) for name in (ours, theirs))
            change = None if one is None or other is None else paired_difference(one, other)
            if not isinstance(change, PairedDifference) or change.interval is None:
                return None
            found.append(change)
        return found

    # Near chance, or with answers that run on, equal scores do not show that nothing was lost.
    unclear = {row.name for row in comparison.rows if is_unclear(row)}

    @cache
    def compare(ours: str, theirs: str) -> Difference:
        found = changes(ours, theirs)
        mean = mean_over_tasks([(each.difference, each.interval) for each in found or []])
        if found is None or not isinstance(mean, Mean) or mean.interval is None:
            return UNKNOWN
        reach = -float(ndtri(ACCURACY_LEVEL / (len(scored) * others))) / TWO_SIDED
        centre = (mean.interval.low + mean.interval.high) / 2
        half = reach * (mean.interval.high - mean.interval.low) / 2
        interval = Interval(low=100 * min(mean.value, centre - half), high=100 * max(mean.value, centre + half))
        margins = [comparison.margins[task] for task in comparison.tasks]
        level = NO_WORSE_LEVEL / others
        total = judge_mean(found, mean_margin(margins))
        held = all(p_within(change, margin.margin) <= level for change, margin in zip(found, margins, strict=True))
        held = held and total is not None and total.p_value <= level and not {ours, theirs} & unclear
        return Difference(100 * mean.value, interval, held)

    return compare


def _scores(record: Record, task: str) -> Scores | None:
    if isinstance(record.tasks, Missing) or task not in record.tasks:
        return None
    scores = record.tasks[task].scores
    return None if isinstance(scores, Missing) else scores


def _speed_of(comparison: Comparison, column: MetricDefinition, margin: float, rows: int) -> Compare:
    level = 1 - 2 * NO_WORSE_LEVEL / max(rows - 1, 1)

    @cache
    def compare(ours: str, theirs: str) -> Difference:
        clear = speed_between(comparison, column.name, ours, theirs, comparisons="all", level=1 - SPEED_LEVEL)
        alone = speed_between(comparison, column.name, ours, theirs, level=level)
        if not isinstance(clear, Change) or not isinstance(alone, Change):
            return UNKNOWN
        value, interval = _turned(clear.percent, clear.interval, column.better)
        _, one = _turned(alone.percent, alone.interval, column.better)
        return Difference(value, interval, one is not None and one.low > -margin, clear.qualification)

    return compare


def _size_of(comparison: Comparison, margin: float) -> Compare:
    """Return the comparison of bytes, which are counted, not sampled."""
    sizes = {row.name: row.size.bytes for row in comparison.rows if isinstance(row.size, SizeCell)}

    def compare(ours: str, theirs: str) -> Difference:
        percent = 100 * (1 - sizes[ours] / sizes[theirs])
        # A difference within the margin puts no variant off.
        counted = percent if abs(percent) > margin else 0.0
        return Difference(percent, Interval(low=counted, high=counted), percent > -margin)

    return compare


def _turned(percent: float, interval: Interval | None, better: Direction) -> tuple[float, Interval | None]:
    if better == "higher" or interval is None:
        return percent, interval
    return -percent, Interval(low=-interval.high, high=-interval.low)


def _untimed(comparison: Comparison, column: MetricDefinition) -> dict[str, str]:
    found, models = {}, comparison.models
    for row in comparison.rows:
        cell = row.speed[column.name]
        if row.marks:
            found[row.name] = "a guard failed: its speed must be measured again"
        elif not isinstance(cell, SpeedCell):
            found[row.name] = cell.reason
        elif reason := models.incomparable(models.headline(row.name), column.name, row.name, row.name):
            found[row.name] = reason
    return found
