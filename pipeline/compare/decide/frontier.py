"""Quality against cost: variants on the Pareto frontier, off it, and undecided.

Each frontier has two axes, one of quality and one of cost. On each axis, the interval of the difference of two variants
tells if one is clearly better (the interval excludes zero), and if it is clearly no worse (it is not clearly worse, and
the lower bound is above minus the axis' margin: equality cannot be shown, a bound on the loss can).

* **off**: another variant dominates it: clearly better on one axis and clearly no worse on the other,
* **on**: against each other variant it is clearly better on at least one axis, so none dominates it,
* **undecided**: neither was shown.

Of two variants at most one can dominate the other, since a clear gain of one is a clear loss of the other. Each
comparison is made at 95 %, as in the table, without correction for multiple comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.compare.comparison import SIZE, Comparison, SpeedCell
from pipeline.compare.decide.differences import speed_between
from pipeline.compare.statements import Claim, Sentence, listing, plain, signed, within_text
from pipeline.compare.stats.accuracy import Mean, mean_over_tasks, pair, paired_interval
from pipeline.compare.stats.intervals import LEVEL, Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import HEADLINE, Direction, MetricDefinition
from pipeline.results.records import Record

Standing = Literal["on", "off", "undecided"]
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
    """One variant minus another on one axis, with the sign such that positive is better; None: interval unknown."""

    value: float
    interval: Interval | None

    @property
    def is_better(self) -> bool:
        """True if clearly better."""
        return self.interval is not None and self.interval.low > 0

    def is_no_worse(self, margin: float) -> bool:
        """Return True if clearly no worse, within the margin."""
        return self.interval is not None and self.interval.low > -margin and self.interval.high >= 0


Compare = Callable[[str, str], Difference]


def frontiers(
    records: Sequence[Record], comparison: Comparison, margin_points: float, margin_percent: float
) -> tuple[Frontier, ...]:
    """Compute the frontiers of mean accuracy against each metric of the benchmark, and against checkpoint size.

    Args:
        records: the results, item by item and repeat by repeat.
        comparison: the table of the same records.
        margin_points: loss of mean accuracy that still counts as no worse.
        margin_percent: loss of speed, or growth in size, that still counts as no worse.
    """
    quality = Axis(name=ACCURACY, title="Mean accuracy", unit="points", better="higher", margin=margin_points)
    by_name = {record.name: record for record in records}
    accuracy = _cached(lambda ours, theirs: _accuracy(by_name[ours], by_name[theirs], comparison.tasks))
    unscored = {row.name: row.mean_accuracy.reason for row in comparison.rows if isinstance(row.mean_accuracy, Missing)}
    found = []
    for column in HEADLINE:
        cost = Axis(name=column.name, title=column.title, unit="%", better=column.better, margin=margin_percent)
        absent = _untimed(comparison, column) | unscored
        found.append(_frontier(comparison, quality, cost, accuracy, _speed_of(comparison, column), absent))
    size = Axis(name=SIZE, title="Checkpoint size", unit="%", better="lower", margin=margin_percent)
    unweighed = {r.name: r.size.reason for r in records if isinstance(r.size, Missing)}
    found.append(
        _frontier(comparison, quality, size, accuracy, lambda a, b: _size(by_name[a], by_name[b]), unweighed | unscored)
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
        beaten_by = [o for o, pair in against.items() if _beats(pair, (quality.margin, cost.margin))]
        # A clear gain of one variant is a clear loss of the other.
        held_off = {o: (better(name, o), cheaper(name, o)) for o in others}
        rivals = [o for o in others if o not in beaten_by and not any(d.is_better for d in held_off[o])]
        standing: Standing = "off" if beaten_by else "undecided" if rivals else "on"
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


def _beats(pair: tuple[Difference, Difference], margins: tuple[float, float]) -> bool:
    clear = [difference.is_better for difference in pair]
    held = [better or d.is_no_worse(margin) for better, d, margin in zip(clear, pair, margins, strict=True)]
    return any(clear) and all(held)


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
        return Sentence(kind="answer", text=text, claims=tuple(claims))
    if standing == "undecided":
        return plain(
            "answer", f"{labels[name]} is undecided: {listing(labels[o] for o in rivals)} may be better or equal."
        )
    claims = [
        _claim(name, other, axis, d)
        for other, pair in held_off.items()
        for axis, d in zip(axes, pair, strict=True)
        if d.is_better
    ]
    if not claims:
        return plain("answer", f"{labels[name]} is the only variant.")
    either = f"{within_text(axes[0].title)} or {within_text(axes[1].title)}"
    text = f"{labels[name]} is on the frontier: in {either} it is clearly better than each other variant."
    return Sentence(kind="answer", text=text, claims=tuple(claims))


def _gain(axis: Axis, difference: Difference) -> str:
    # Positive is better, so the sign of a metric that is better when lower is reversed back.
    value = difference.value if axis.better == "higher" else -difference.value
    return f"{signed(value)} {axis.unit} {within_text(axis.title)}"


def _claim(name: str, other: str, axis: Axis, difference: Difference) -> Claim:
    assert difference.interval is not None
    return Claim(variant=name, against=other, column=axis.name, interval=difference.interval)


def _accuracy(ours: Record, theirs: Record, tasks: Sequence[str]) -> Difference:
    """Return the mean of the paired differences over all tasks, in points."""
    assert not isinstance(ours.tasks, Missing) and not isinstance(theirs.tasks, Missing)
    parts = []
    for task in tasks:
        one, other = ours.tasks[task].scores, theirs.tasks[task].scores
        matched = one if isinstance(one, Missing) else other if isinstance(other, Missing) else pair(one, other)
        if isinstance(matched, Missing):
            return Difference(0.0, None)
        parts.append(paired_interval(matched))
    mean = mean_over_tasks(parts)
    if not isinstance(mean, Mean) or mean.interval is None:
        return Difference(0.0, None)
    return Difference(100 * mean.value, Interval(low=100 * mean.interval.low, high=100 * mean.interval.high))


def _speed_of(comparison: Comparison, column: MetricDefinition) -> Compare:
    def compare(ours: str, theirs: str) -> Difference:
        change = speed_between(comparison, column.name, ours, theirs)
        if not isinstance(change, Change):
            return Difference(0.0, None)
        return _turned(change.percent, change.interval, column.better)

    return compare


def _size(ours: Record, theirs: Record) -> Difference:
    """Return the difference in bytes, which are counted, not sampled."""
    assert not isinstance(ours.size, Missing) and not isinstance(theirs.size, Missing)
    percent = 100 * (ours.size.bytes / theirs.size.bytes - 1)
    return _turned(percent, Interval(low=percent, high=percent), "lower")


def _turned(percent: float, interval: Interval | None, better: Direction) -> Difference:
    if better == "higher" or interval is None:
        return Difference(percent, interval)
    return Difference(-percent, Interval(low=-interval.high, high=-interval.low))


def _untimed(comparison: Comparison, column: MetricDefinition) -> dict[str, str]:
    found = {}
    for row in comparison.rows:
        cell = row.speed[column.name]
        if not row.claims_speed:
            found[row.name] = "emulated here: no speed claim"
        elif not isinstance(cell, SpeedCell):
            found[row.name] = cell.reason
    return found


def _cached(compare: Compare) -> Compare:
    """Cache a comparison; a difference and its reverse are computed once."""
    known: dict[tuple[str, str], Difference] = {}

    def cached(ours: str, theirs: str) -> Difference:
        if (theirs, ours) in known:
            value, around = known[theirs, ours]
            return Difference(-value, None if around is None else Interval(low=-around.high, high=-around.low))
        if (ours, theirs) not in known:
            known[ours, theirs] = compare(ours, theirs)
        return known[ours, theirs]

    return cached
