"""Counts of an evaluation's requests that its results report beside the scores."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypedDict


class TallyFields(TypedDict):
    """Fields of a `TaskResult` that a tally fills."""

    asked_once: int
    asked_by_echo: int
    generated: int
    truncated: int
    unfinished: int
    asked_again: int
    differing: int


@dataclass
class Tally:
    """Counts of requests and of irregularities for the results."""

    fast: int = 0
    echo: int = 0
    generated: int = 0
    truncated: set[Hashable] = field(default_factory=set)
    unfinished: int = 0
    # Task and item of each of these answers.
    cut: set[Hashable] = field(default_factory=set)
    asked_again: int = 0
    differing: int = 0

    def facts(self) -> TallyFields:
        """Return the counts as figures.

        Questions asked once, `echo` requests, generations, prompts cut, answers cut by their budget; greedy generations
        asked again, and those of them that differed.
        """
        return {
            "asked_once": self.fast,
            "asked_by_echo": self.echo,
            "generated": self.generated,
            "truncated": len(self.truncated),
            "unfinished": self.unfinished,
            "asked_again": self.asked_again,
            "differing": self.differing,
        }
