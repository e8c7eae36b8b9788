"""The constraints of a deployment, and their status for a variant: met, broken, or open.

A latency is met or broken if the whole interval of the figure lies on one side of the limit; open otherwise, or if
there is no figure, one measured while a guard failed, or one of another machine than the constrained hardware. Each
task's loss is met, broken or open by its verdict at its limit, or at the table's margin without one
(`stats.noninferiority`): *no worse*, *worse*, *cannot tell*. Open are also a mean loss that is not ruled out, answers
that reach the token limit more often than BF16's, and a speed measured while a guard failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from pipeline.compare.comparison import Row, SpeedCell, TaskCell
from pipeline.compare.decide.losses import mean_loss_at, scored, tested_interval, verdict_at
from pipeline.compare.decide.objective import cell_at, under
from pipeline.compare.statements import Claim, Kind, Sentence, within_text
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import LossVerdict, MeanLoss, points
from pipeline.compare.tasks import CutAnswers
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import P99_TPOT, P99_TTFT

Status = Literal["met", "broken", "open"]
LATENCIES = {"ttft_p99_ms": P99_TTFT, "tpot_p99_ms": P99_TPOT}


class Constraints(Frozen):
    """The constraints of a deployment; None: not constrained.

    `memory_gib` is the GPU's memory; `max_loss_points` is by task label (1.0: one item in a hundred); `hardware` names
    a GPU of the catalogue; `at` is the load at which latencies are judged, None for the one of the tables.
    """

    memory_gib: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p99_ms: float | None = None
    at: str | None = None
    max_loss_points: dict[str, float] = Field({})
    hardware: str | None = None

    @property
    def is_empty(self) -> bool:
        """True if nothing is constrained."""
        return self == Constraints(at=self.at)

    @property
    def loss_limits(self) -> dict[str, float]:
        """`max_loss_points` as shares."""
        return {task: limit / 100 for task, limit in self.max_loss_points.items()}


class Requirements(Frozen):
    """The requirements of a variant on the machine.

    `memory_gib` is the GPU memory that weights and KV cache need, `memory_of` says what it includes; `unserved` is the
    reason why the constrained hardware does not serve the variant, empty if it does, Missing if that is unknown;
    `measured_on` is the machine of the benchmark if it is another one than the constrained hardware, else empty.
    """

    memory_gib: float | Missing
    memory_of: str = ""
    unserved: str | Missing = ""
    measured_on: str = ""


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


def examine(
    row: Row, constraints: Constraints, needs: Requirements | None, marks: Sequence[str] | None = None
) -> Candidate:
    """Check one variant against all constraints; a failed guard of the objective's figure leaves it open.

    Args:
        row: the variant.
        constraints: the limits.
        needs: what it takes, for constraints on memory and hardware.
        marks: the failed guards of the objective's figure; by default those of the table's.
    """
    checks = tuple(
        ConstraintCheck(constraint=name, status=status, statement=statement)
        for name, status, statement in (
            *_memory(row, constraints, needs),
            *_hardware(row, constraints, needs),
            *_latencies(row, constraints, needs),
            *_losses(row, constraints),
            *_measurement(row, row.marks if marks is None else marks),
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


def _latencies(row: Row, constraints: Constraints, needs: Requirements | None) -> Iterable[CheckParts]:
    for name, metric in LATENCIES.items():
        limit = getattr(constraints, name)
        if limit is None:
            continue
        load = constraints.at or row.headline
        title = within_text(metric.title) + (f" {under(load)}" if load else "")
        if needs is not None and needs.measured_on:
            where = f"measured on {needs.measured_on}, not on {constraints.hardware}"
            yield _open(name, "speed", f"{row.label}: {title} is open: {where}.")
            continue
        cell = cell_at(row, metric.name, load)
        if not isinstance(cell, SpeedCell):
            yield _open(name, "speed", f"{row.label}: {title} is unknown ({cell.reason}).")
            continue
        if marks := row.marks_at(load):
            yield _open(name, "speed", f"{row.label}: {title} must be measured again ({_listed(marks)}).")
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
            yield _open(name, "speed", f"{measured}, which cannot be told from {limit:,g} ms.")


def _measurement(row: Row, marks: Sequence[str]) -> Iterable[CheckParts]:
    """Yield the failed guards: a speed measured while one failed is not known."""
    if marks:
        yield _open("measurement", "caveat", f"{row.label}: its speed must be measured again ({_listed(marks)}).")


def _listed(marks: Iterable[str]) -> str:
    return "; ".join(mark.rstrip(".") for mark in marks)


def _losses(row: Row, constraints: Constraints) -> Iterable[CheckParts]:
    if row.is_baseline:
        return
    for task, cell in row.tasks.items():
        name, limit = f"max_loss_points.{task}", constraints.loss_limits.get(task)
        change = cell.change if isinstance(cell, TaskCell) else cell
        if not isinstance(change, PairedDifference):
            yield _open(name, "quality", f"{row.label}: the loss on {task} is unknown ({change.reason}).")
            continue
        assert isinstance(cell, TaskCell)
        loss = verdict_at(cell, limit)
        assert loss is not None
        yield name, *_judged(row, task, change, loss)
    mean = mean_loss_at(row, constraints.loss_limits)
    if isinstance(mean, MeanLoss) and not mean.is_within:
        text = f"{row.label}: a mean loss of {points(mean.margin)} over all tasks is not ruled out."
        yield _open("mean_loss", "quality", text)
    for task, cell in scored(row).items():
        if cell.cut is not None and cell.cut.is_more:
            yield _open(f"cut_answers.{task}", "quality", f"{cut_text(row, task, cell.cut)}.")


def cut_text(row: Row, task: str, cut: CutAnswers) -> str:
    """Describe the answers that reached the token limit, against BF16's."""
    return (
        f"{row.label} runs on: {cut.here:,} of {cut.n:,} answers of {task} reached the token limit, with BF16 "
        f"{cut.baseline:,} (p = {cut.p_holm:.2g}, {cut.method})"
    )


def _judged(row: Row, task: str, change: PairedDifference, loss: LossVerdict) -> tuple[Status, Sentence]:
    """Return the status of a loss by its verdict, with the distance from the margin as the claim."""
    around = loss.interval or Interval(low=-1.0, high=1.0)
    beyond = Interval(low=100 * (around.low + loss.margin), high=100 * (around.high + loss.margin))
    measured, limit = tested_interval(change, loss), points(loss.margin)
    # Rounding of the bisection must not put an end at zero itself.
    if loss.kind == "no worse" and beyond.low > 0:
        text = f"{row.label} loses less than {limit} on {task}: {measured}."
        return "met", _claiming("quality", text, row, task, beyond)
    if loss.kind == "worse" and beyond.high < 0:
        text = f"{row.label} loses more than {limit} on {task}: {measured}."
        return "broken", _claiming("quality", text, row, task, beyond)
    text = f"{row.label}: a loss of {limit} on {task} is not ruled out: {measured}."
    if loss.blind:
        text = f"{row.label}: {task} cannot show a loss: {loss.blind}."
    return "open", Sentence(kind="quality", text=text)


def _open(name: str, kind: Kind, text: str) -> CheckParts:
    return name, "open", Sentence(kind=kind, text=text)


def _claiming(kind: Kind, text: str, row: Row, column: str, beyond: Interval) -> Sentence:
    """Return a statement about a limit; `beyond` is the interval of the distance from it."""
    return Sentence(
        kind=kind, text=text, claims=(Claim(variant=row.name, against="limit", column=column, interval=beyond),)
    )
