"""A statement made from figures, and the differences it rests on: what a verdict and a recommendation consist of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Frozen

Kind = Literal["answer", "speed", "quality", "size", "caveat", "scope"]


class Claim(Frozen):
    """A difference that a sentence states as real."""

    variant: str
    against: str
    column: str
    interval: Interval


class Sentence(Frozen):
    """One statement, and the differences it rests on."""

    kind: Kind
    text: str
    claims: tuple[Claim, ...] = ()


def plain(kind: Kind, text: str) -> Sentence:
    """A statement that claims no difference."""
    return Sentence(kind=kind, text=text)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, which a rounded zero does not have."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def in_points(difference: float) -> str:
    """A difference of shares in points."""
    return signed(100 * difference)


def percent_range(change: Change) -> str:
    """The ends of a relative change's interval."""
    assert change.interval is not None
    return f"{signed(change.interval.low)} to {signed(change.interval.high)}"


def ends(change: PairedDifference) -> str:
    """The ends of a paired difference's interval, in points."""
    assert change.interval is not None
    return f"{in_points(change.interval.low)} to {in_points(change.interval.high)}"


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def within_text(title: str) -> str:
    """A title where it does not begin the sentence."""
    return title[:1].lower() + title[1:]


def listing(names: Iterable[str]) -> str:
    """Names as people list them."""
    *head, last = list(names)
    return f"{', '.join(head)} and {last}" if head else last
