"""Measurements that would decide open questions, one line for those that variants share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pipeline.compare.statements import listing
from pipeline.results.base import Frozen
from pipeline.results.metrics import TPOT


class Measurement(Frozen):
    """A measurement that would decide an open question: a total of items or repeats, or a stage that has not run.

    `guards` are those that failed, and `blind` says why more items would not decide, if that is why.
    """

    variant: str
    against: str
    column: str
    kind: Literal["items", "repeats", "benchmark", "evaluation"]
    needed: int | None
    text: str
    guards: tuple[str, ...] = ()
    blind: str = ""


def more_repeats(column: str) -> str:
    """Say that more repeats would separate two variants, of which no number can be named."""
    noun = "time per output token" if column == TPOT.name else "throughput"
    return f"more repeats or blocks of each would separate their {noun}, if they differ at all."


def open_points(settle: Sequence[Measurement], labels: Mapping[str, str]) -> list[str]:
    """Return the measurements that would decide open questions, one line for those that variants share."""
    unscored: dict[str, list[str]] = {}
    for each in settle:
        if each.kind == "evaluation":
            unscored.setdefault(each.variant, []).append(each.column)
    points: dict[tuple[str, ...], list[Measurement]] = {}
    for each in settle:
        if each.kind == "evaluation":
            alike: tuple[str, ...] = (each.kind, *unscored[each.variant])
        elif each.guards:
            alike = ("guards",)
        elif each.blind:
            alike = (each.column, each.blind)
        elif each.kind == "repeats" and each.needed is None:
            alike = (each.kind, each.against, each.column)
        else:
            alike = (each.text,)
        points.setdefault(alike, []).append(each)
    return [_line(group, labels) for group in points.values()]


def _line(group: Sequence[Measurement], labels: Mapping[str, str]) -> str:
    """Return one line for measurements that several variants share."""
    first, names = group[0], listing(dict.fromkeys(labels[each.variant] for each in group))
    if first.guards and len(group) > 1:
        return f"{names}: their speed must be measured again ({'; '.join(_guards(group, labels))})."
    if first.blind:
        return f"{names}: {first.column} cannot decide: {first.blind}."
    if all(each.text == first.text for each in group):
        return first.text
    if first.kind == "evaluation":
        tasks = list(dict.fromkeys(each.column for each in group))
        return f"{names}: {listing(tasks)} must be scored on the same items as BF16."
    return f"{names}, each with {labels.get(first.against, first.against)}: {more_repeats(first.column)}"


def _guards(group: Sequence[Measurement], labels: Mapping[str, str]) -> Iterator[str]:
    """Yield each guard that failed, with its variants where it did not fail for all."""
    for name in dict.fromkeys(name for each in group for name in each.guards):
        failed = [labels[each.variant] for each in group if name in each.guards]
        yield name if len(failed) == len(group) else f"{name} for {listing(failed)}"
