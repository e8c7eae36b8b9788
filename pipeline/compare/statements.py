"""Statements with the differences that they rest on: the parts of a verdict and of a recommendation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Frozen

Kind = Literal["answer", "speed", "quality", "size", "caveat", "scope"]


class Claim(Frozen):
    """A difference that a statement claims."""

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
    """Return a statement that claims no difference."""
    return Sentence(kind=kind, text=text)


def signed(value: float, digits: int = 1) -> str:
    """Format a difference with its sign; a rounded zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def in_points(difference: float) -> str:
    """Format a difference of shares in points."""
    return signed(100 * difference)


def percent_range(change: Change) -> str:
    """Format the interval of a relative change, in percent."""
    assert change.interval is not None
    return f"{signed(change.interval.low)} to {signed(change.interval.high)}"


def points_range(change: PairedDifference) -> str:
    """Format the interval of a paired difference, in points."""
    assert change.interval is not None
    return f"{in_points(change.interval.low)} to {in_points(change.interval.high)}"


def count(number: int, noun: str) -> str:
    """Format a count with its noun, pluralised."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def within_text(title: str) -> str:
    """Format a title for the middle of a sentence."""
    return title[:1].lower() + title[1:]


def listing(names: Iterable[str]) -> str:
    """Join names with commas and a final "and"."""
    *head, last = list(names)
    return f"{', '.join(head)} and {last}" if head else last
