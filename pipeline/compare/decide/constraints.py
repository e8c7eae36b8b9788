"""The constraints of a deployment, and their status for a variant: met, broken, or open.

A constraint is met or broken if the whole interval of the figure lies on one side of it. It is open otherwise, or if
there is no figure. Tasks without a limit must show no loss beyond noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from pipeline.compare.comparison import Row, SpeedCell, TaskCell
from pipeline.compare.decide.differences import claim
from pipeline.compare.statements import Claim, Kind, Sentence, in_points, points_range, within_text
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import P99_TPOT, P99_TTFT

Status = Literal["met", "broken", "open"]
LATENCIES = {"ttft_p99_ms": P99_TTFT, "tpot_p99_ms": P99_TPOT}


class Constraints(Frozen):
    """The constraints of a deployment; None: not constrained.

    `memory_gib` is the GPU's memory; `max_loss_points` is by task label (1.0: one item in a hundred); `hardware` names
    a GPU of the catalogue.
    """

    memory_gib: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p99_ms: float | None = None
    max_loss_points: dict[str, float] = Field({})
    hardware: str | None = None

    @property
    def is_empty(self) -> bool:
        """True if nothing is constrained."""
        return self == Constraints()


class Requirements(Frozen):
    """The requirements of a variant on the machine.

    `memory_gib` is the GPU memory that weights and KV cache need, `memory_of` says what it includes; `unserved` is the
    reason why the constrained hardware does not serve the variant, empty if it does, Missing if that is unknown.
    """

    memory_gib: float | Missing
    memory_of: str = ""
    unserved: str | Missing = ""


class ConstraintCheck(Frozen):
    """One constraint on one variant; losses are by task: `max_loss_points.MMLU`."""

    constraint: str
    status: Status
    statement: Sentence


class Candidate(Frozen):
    """A variant under all constraints: admissible if it meets all, excluded if it breaks one, else open."""

    name: str
    label: str
    standing: Literal["admissible", "excluded", "open"]
    checks: tuple[ConstraintCheck, ...]

    @property
    def broken(self) -> tuple[ConstraintCheck, ...]:
        """The broken constraints, which exclude it."""
        return tuple(check for check in self.checks if check.status == "broken")

    @property
    def open(self) -> tuple[ConstraintCheck, ...]:
        """The constraints that are neither met nor broken."""
        return tuple(check for check in self.checks if check.status == "open")


def examine(row: Row, constraints: Constraints, needs: Requirements | None) -> Candidate:
    """Check one variant against all constraints."""
    checks = tuple(
        ConstraintCheck(constraint=name, status=status, statement=statement)
        for name, status, statement in (
            *_memory(row, constraints, needs),
            *_hardware(row, constraints, needs),
            *_latencies(row, constraints),
            *_losses(row, constraints),
        )
    )
    statuses = {check.status for check in checks}
    standing: Literal["admissible", "excluded", "open"] = (
        "excluded" if "broken" in statuses else "open" if "open" in statuses else "admissible"
    )
    return Candidate(name=row.name, label=row.label, standing=standing, checks=checks)


CheckParts = tuple[str, Status, Sentence]


def _memory(row: Row, constraints: Constraints, needs: Requirements | None) -> Iterable[CheckParts]:
    limit = constraints.memory_gib
    if limit is None:
        return
    needed = Missing(reason="its size is not known") if needs is None else needs.memory_gib
    if isinstance(needed, Missing):
        yield _open("memory_gib", "size", f"{row.label}: the fit into {limit:g} GiB is unknown ({needed.reason}).")
        return
    fits = needed <= limit
    assert needs is not None
    size = f"{needed:.1f}" if needed >= 0.1 else f"{needed:.1g}"
    text = f"{row.label} needs {size} GiB ({needs.memory_of}), {'within' if fits else 'more than'} {limit:g} GiB."
    # Bytes are counted, not sampled.
    yield "memory_gib", "met" if fits else "broken", Sentence(kind="size", text=text)


def _hardware(row: Row, constraints: Constraints, needs: Requirements | None) -> Iterable[CheckParts]:
    if constraints.hardware is None:
        return
    unserved = Missing(reason="its format is not known") if needs is None else needs.unserved
    if isinstance(unserved, Missing):
        text = f"{row.label}: support on {constraints.hardware} is unknown ({unserved.reason})."
        yield _open("hardware", "caveat", text)
    elif unserved:
        text = f"{row.label} is not served on {constraints.hardware}: {unserved.rstrip('.')}."
        yield "hardware", "broken", Sentence(kind="caveat", text=text)
    else:
        yield "hardware", "met", Sentence(kind="caveat", text=f"{row.label} is served on {constraints.hardware}.")


def _latencies(row: Row, constraints: Constraints) -> Iterable[CheckParts]:
    for name, metric in LATENCIES.items():
        title = within_text(metric.title)
        limit = getattr(constraints, name)
        if limit is None:
            continue
        cell = row.details.get(metric.name, Missing(reason="not measured"))
        if not row.claims_speed:
            cell = Missing(reason="emulated here: no speed claim")
        if not isinstance(cell, SpeedCell):
            yield _open(name, "speed", f"{row.label}: {title} is unknown ({cell.reason}).")
            continue
        mean, around = cell.measured.mean, cell.measured.interval
        if around is None:
            yield _open(name, "speed", f"{row.label}: {title} is {mean:,.0f} ms in a single repeat, without interval.")
            continue
        beyond = Interval(low=around.low - limit, high=around.high - limit)
        measured = f"{row.label}: {title} is {mean:,.0f} ms ({around.low:,.0f} to {around.high:,.0f})"
        if beyond.high < 0:
            yield name, "met", _claiming("speed", f"{measured}, within {limit:,g} ms.", row, metric.name, beyond)
        elif beyond.low > 0:
            yield name, "broken", _claiming("speed", f"{measured}, above {limit:,g} ms.", row, metric.name, beyond)
        else:
            yield _open(name, "speed", f"{measured}, not distinguishable from {limit:,g} ms.")


def _losses(row: Row, constraints: Constraints) -> Iterable[CheckParts]:
    if row.is_baseline:
        return
    for task, cell in row.tasks.items():
        name, margin = f"max_loss_points.{task}", constraints.max_loss_points.get(task)
        change = cell.change if isinstance(cell, TaskCell) else cell
        if not isinstance(change, PairedDifference):
            yield _open(name, "quality", f"{row.label}: the loss on {task} is unknown ({change.reason}).")
        elif change.interval is None:
            yield _open(name, "quality", f"{row.label}: the difference on {task} has no interval.")
        elif margin is None:
            yield name, *_beyond_noise(row, task, change)
        else:
            yield name, *_within_margin(row, task, change, change.interval, margin)


def _beyond_noise(row: Row, task: str, change: PairedDifference) -> tuple[Status, Sentence]:
    measured = f"{in_points(change.difference)} points ({points_range(change)})"
    if change.is_clear and change.difference < 0:
        text = f"{row.label} loses accuracy on {task}: {measured}."
        return "broken", Sentence(kind="quality", text=text, claims=(claim(row, task, change),))
    return "met", Sentence(kind="quality", text=f"{row.label} shows no loss beyond noise on {task}: {measured}.")


def _within_margin(
    row: Row, task: str, change: PairedDifference, around: Interval, margin: float
) -> tuple[Status, Sentence]:
    beyond = Interval(low=around.low + margin / 100, high=around.high + margin / 100)
    measured = f"{in_points(change.difference)} points ({points_range(change)})"
    limit = f"{margin:g} point{'' if margin == 1 else 's'}"
    if beyond.low > 0:
        text = f"{row.label} loses less than {limit} on {task}: {measured}."
        return "met", _claiming("quality", text, row, task, beyond)
    if beyond.high < 0:
        text = f"{row.label} loses more than {limit} on {task}: {measured}."
        return "broken", _claiming("quality", text, row, task, beyond)
    text = f"{row.label}: a loss of {limit} on {task} is not ruled out: {measured}."
    return "open", Sentence(kind="quality", text=text)


def _open(name: str, kind: Kind, text: str) -> CheckParts:
    return name, "open", Sentence(kind=kind, text=text)


def _claiming(kind: Kind, text: str, row: Row, column: str, beyond: Interval) -> Sentence:
    """Return a statement about a limit; `beyond` is the interval of the distance from it."""
    return Sentence(
        kind=kind, text=text, claims=(Claim(variant=row.name, against="limit", column=column, interval=beyond),)
    )
