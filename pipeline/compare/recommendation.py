"""What to deploy under constraints, why, what comes next, and what measurement would settle what is open.

A constraint is met or broken where the whole interval of the figure lies on one side of it, and open where it does not.
A variant is admissible if it meets all, excluded if it breaks one, open otherwise. Recommended is the fastest of the
admissible ones; the runner-up is the next, admissible or open.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.compare.estimates import Frozen
from pipeline.compare.sentences import Sentence

Status = Literal["met", "broken", "open"]


class Constraints(Frozen):
    """What a deployment has to hold; None: no such constraint.

    `max_loss_points` is by task label, in points (1.0 is 1 % of the items); `hardware` names a GPU of the catalogue.
    """

    memory_gib: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p99_ms: float | None = None
    max_loss_points: dict[str, float] = Field({})
    hardware: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return self == Constraints()


class Check(Frozen):
    """One constraint on one variant, `max_loss_points` by task: `max_loss_points.MMLU`."""

    constraint: str
    status: Status
    text: str


class Candidate(Frozen):
    """A variant under all constraints."""

    name: str
    label: str
    standing: Literal["admissible", "excluded", "open"]
    checks: tuple[Check, ...]


class Measurement(Frozen):
    """What would settle something that is open: so many items or repeats in all, or a stage that has not run."""

    variant: str
    against: str
    column: str
    kind: Literal["items", "repeats", "benchmark", "evaluation"]
    needed: int | None
    text: str


class Recommendation(Frozen):
    """The answer and everything that it rests on."""

    answer: Sentence
    reasons: tuple[Sentence, ...]
    recommended: str | None
    runner_up: str | None
    constraints: Constraints
    candidates: tuple[Candidate, ...]
    settle: tuple[Measurement, ...]
