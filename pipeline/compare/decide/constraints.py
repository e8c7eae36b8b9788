"""What a deployment has to hold, and whether a variant does: met, broken, or open.

A constraint is met or broken where the whole interval of the figure lies on one side of it, and open where it does not,
or where there is no figure. Losses of tasks without a limit of their own are held to none that is beyond noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from pipeline.compare.comparison import Row, SpeedCell, TaskCell
from pipeline.compare.decide.differences import claim
from pipeline.compare.statements import Claim, Kind, Sentence, ends, in_points, within_text
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import P99_TPOT, P99_TTFT

Status = Literal["met", "broken", "open"]
LATENCIES = {"ttft_p99_ms": P99_TTFT, "tpot_p99_ms": P99_TPOT}


class Constraints(Frozen):
    """What a deployment has to hold; None: no such constraint.

    `memory_gib` is the card's; `max_loss_points` is by task label (1.0: one item in a hundred); `hardware` names a GPU
    of the catalogue.
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


class Needs(Frozen):
    """What a variant needs of the machine.

    `memory_gib` is that of the card on which weights and KV cache fit, `memory_of` says of what; `unserved` is why the
    hardware asked for does not serve it, empty if it does; Missing where that cannot be told.
    """

    memory_gib: float | Missing
    memory_of: str = ""
    unserved: str | Missing = ""


class Check(Frozen):
    """One constraint on one variant; losses are by task: `max_loss_points.MMLU`."""

    constraint: str
    status: Status
    statement: Sentence


class Candidate(Frozen):
    """A variant under all constraints: admissible if it meets all, excluded if it breaks one, else open."""

    name: str
    label: str
    standing: Literal["admissible", "excluded", "open"]
    checks: tuple[Check, ...]

    @property
    def broken(self) -> tuple[Check, ...]:
        """What excludes it."""
        return tuple(check for check in self.checks if check.status == "broken")

    @property
    def open(self) -> tuple[Check, ...]:
        """What is not known of it."""
        return tuple(check for check in self.checks if check.status == "open")


def examine(row: Row, constraints: Constraints, needs: Needs | None) -> Candidate:
    """One variant under all constraints."""
    checks = tuple(
        Check(constraint=name, status=status, statement=statement)
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


Found = tuple[str, Status, Sentence]


def _memory(row: Row, constraints: Constraints, needs: Needs | None) -> Iterable[Found]:
    limit = constraints.memory_gib
    if limit is None:
        return
    needed = Missing(reason="its size is not known") if needs is None else needs.memory_gib
    if isinstance(needed, Missing):
        yield _open("memory_gib", "size", f"{row.label}: whether it fits into {limit:g} GiB is open ({needed.reason}).")
        return
    fits = needed <= limit
    assert needs is not None
    size = f"{needed:.1f}" if needed >= 0.1 else f"{needed:.1g}"
    text = f"{row.label} needs {size} GiB ({needs.memory_of}), {'within' if fits else 'more than'} {limit:g} GiB."
    # Bytes are counted, not sampled.
    yield "memory_gib", "met" if fits else "broken", Sentence(kind="size", text=text)


def _hardware(row: Row, constraints: Constraints, needs: Needs | None) -> Iterable[Found]:
    if constraints.hardware is None:
        return
    unserved = Missing(reason="nothing is known of it") if needs is None else needs.unserved
    if isinstance(unserved, Missing):
        text = f"{row.label}: whether {constraints.hardware} serves it is open ({unserved.reason})."
        yield _open("hardware", "caveat", text)
    elif unserved:
        text = f"{row.label} is not served on {constraints.hardware}: {unserved.rstrip('.')}."
        yield "hardware", "broken", Sentence(kind="caveat", text=text)
    else:
        yield "hardware", "met", Sentence(kind="caveat", text=f"{row.label} is served on {constraints.hardware}.")


def _latencies(row: Row, constraints: Constraints) -> Iterable[Found]:
    for name, metric in LATENCIES.items():
        title = within_text(metric.title)
        limit = getattr(constraints, name)
        if limit is None:
            continue
        cell = row.details.get(metric.name, Missing(reason="not measured"))
        if not row.claims_speed:
            cell = Missing(reason="emulated here: no speed claim")
        if not isinstance(cell, SpeedCell):
            yield _open(name, "speed", f"{row.label}: {title} is open ({cell.reason}).")
            continue
        mean, around = cell.measured.mean, cell.measured.interval
        if around is None:
            yield _open(name, "speed", f"{row.label}: {title} is {mean:,.0f} ms in a single repeat, without interval.")
            continue
        beyond = Interval(low=around.low - limit, high=around.high - limit)
        seen = f"{row.label}: {title} is {mean:,.0f} ms ({around.low:,.0f} to {around.high:,.0f})"
        if beyond.high < 0:
            yield name, "met", _claiming("speed", f"{seen}, within {limit:,g} ms.", row, metric.name, beyond)
        elif beyond.low > 0:
            yield name, "broken", _claiming("speed", f"{seen}, above {limit:,g} ms.", row, metric.name, beyond)
        else:
            yield _open(name, "speed", f"{seen}, which cannot be told from {limit:,g} ms.")


def _losses(row: Row, constraints: Constraints) -> Iterable[Found]:
    if row.is_baseline:
        return
    for task, cell in row.tasks.items():
        name, margin = f"max_loss_points.{task}", constraints.max_loss_points.get(task)
        change = cell.change if isinstance(cell, TaskCell) else cell
        if not isinstance(change, PairedDifference):
            yield _open(name, "quality", f"{row.label}: {task} is open ({change.reason}).")
        elif change.interval is None:
            yield _open(name, "quality", f"{row.label}: the difference on {task} has no interval.")
        elif margin is None:
            yield name, *_beyond_noise(row, task, change)
        else:
            yield name, *_within_margin(row, task, change, change.interval, margin)


def _beyond_noise(row: Row, task: str, change: PairedDifference) -> tuple[Status, Sentence]:
    seen = f"{in_points(change.difference)} points ({ends(change)})"
    if change.is_clear and change.difference < 0:
        text = f"{row.label} loses accuracy on {task}: {seen}."
        return "broken", Sentence(kind="quality", text=text, claims=(claim(row, task, change),))
    return "met", Sentence(kind="quality", text=f"{row.label} shows no loss beyond noise on {task}: {seen}.")


def _within_margin(
    row: Row, task: str, change: PairedDifference, around: Interval, margin: float
) -> tuple[Status, Sentence]:
    beyond = Interval(low=around.low + margin / 100, high=around.high + margin / 100)
    seen = f"{in_points(change.difference)} points ({ends(change)})"
    limit = f"{margin:g} point{'' if margin == 1 else 's'}"
    if beyond.low > 0:
        text = f"{row.label} loses less than {limit} on {task}: {seen}."
        return "met", _claiming("quality", text, row, task, beyond)
    if beyond.high < 0:
        text = f"{row.label} loses more than {limit} on {task}: {seen}."
        return "broken", _claiming("quality", text, row, task, beyond)
    return "open", Sentence(kind="quality", text=f"{row.label}: a loss of {limit} on {task} is not ruled out: {seen}.")


def _open(name: str, kind: Kind, text: str) -> Found:
    return name, "open", Sentence(kind=kind, text=text)


def _claiming(kind: Kind, text: str, row: Row, column: str, beyond: Interval) -> Sentence:
    """A statement about a limit: the interval is of the distance from it."""
    return Sentence(
        kind=kind, text=text, claims=(Claim(variant=row.name, against="limit", column=column, interval=beyond),)
    )
