"""The recommended variant under constraints: reasons, runner-up, and measurements that would decide open questions.

The recommended variant is the fastest admissible one, provided its gain over BF16 is beyond noise or BF16 itself is
excluded. The runner-up is the next fastest that is not excluded. Each open question comes with the measurement that
would decide it, if the figures so far hold (`stats.sample_size`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pipeline.compare.comparison import Comparison, Row, SizeCell, SpeedCell
from pipeline.compare.decide.constraints import (
    LATENCIES,
    Candidate,
    ConstraintCheck,
    Constraints,
    Requirements,
    examine,
)
from pipeline.compare.decide.differences import (
    baseline_of,
    change_of,
    claim,
    gains,
    intervals,
    is_uncertain,
    losses,
    mean_throughput,
    paired,
    repeats_needed,
    serves_more,
    throughput_over,
)
from pipeline.compare.statements import Claim, Sentence, count, listing, percent_range, plain, within_text
from pipeline.compare.stats.sample_size import items_to_settle
from pipeline.results.base import Frozen, Missing
from pipeline.results.metrics import THROUGHPUT

# Headlines with more variants than these give their number, not their names.
NAMED = 4
MORE_REPEATS = "more repeats or blocks of each would separate their throughput, if they differ at all."


class Measurement(Frozen):
    """A measurement that would decide an open question: a total of items or repeats, or a stage that has not run."""

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


def recommend(
    comparison: Comparison,
    constraints: Constraints | None = None,
    requirements: Mapping[str, Requirements] | None = None,
) -> Recommendation:
    """Return the answer to the report's question.

    Args:
        comparison: the results.
        constraints: the constraints of the deployment.
        requirements: those of each variant, for constraints on memory and hardware.
    """
    return _Decision(comparison, constraints or Constraints(), requirements or {}).recommendation()


class _Decision:
    """The rows with their standing under the constraints."""

    def __init__(
        self, comparison: Comparison, constraints: Constraints, requirements: Mapping[str, Requirements]
    ) -> None:
        self.comparison, self.constraints = comparison, constraints
        self.baseline = baseline_of(comparison)
        self.others = [row for row in comparison.rows if not row.is_baseline]
        self.candidates = {row.name: examine(row, constraints, requirements.get(row.name)) for row in comparison.rows}

    def recommendation(self) -> Recommendation:
        answer, best = self._answer()
        runner_up = self._runner_up(best) if best else None
        return Recommendation(
            answer=answer,
            reasons=tuple(self._reasons(best, runner_up)),
            recommended=best.name if best else None,
            runner_up=runner_up.name if runner_up else None,
            constraints=self.constraints,
            candidates=tuple(self.candidates.values()),
            settle=tuple(self._settle(best, runner_up)),
        )

    def _stands(self, row: Row, *standings: str) -> bool:
        return self.candidates[row.name].standing in standings

    def _answer(self) -> tuple[Sentence, Row | None]:
        if not self.comparison.is_measured:
            return plain("answer", "No verdict: nothing has been measured yet."), None
        if self.baseline is None:
            return plain("answer", "No verdict: without a BF16 result there is nothing to compare with."), None
        if not self.others:
            return plain("answer", "No verdict: BF16 is the only variant with results."), None
        timed = [row for row in self.others if row.claims_speed and change_of(row, THROUGHPUT.name) is not None]
        if not timed:
            return self._no_speed(), None
        replaced = self._stands(self.baseline, "excluded")
        faster = [row for row in timed if replaced or gains(row)]
        safe = [row for row in faster if self._stands(row, "admissible") and row.tasks]
        if safe:
            best = max(safe, key=mean_throughput)
            return self._best(best, safe, replaced), best
        if not self.constraints.is_empty:
            return self._stay(faster)
        return self._no_gain(timed) if not faster else _only_costly(faster), None

    def _best(self, best: Row, safe: Sequence[Row], replaced: bool) -> Sentence:
        """Return the statement on the fastest safe variant, with those of the same throughput within noise."""
        change, claims = change_of(best, THROUGHPUT.name), []
        if gains(best) and change is not None:
            lead, claims = serves_more(best, change), [claim(best, THROUGHPUT.name, change)]
            lead += " (which does not meet the constraints)" if replaced else ""
        else:
            lead = f"{best.label} meets the constraints, which BF16 does not, at {mean_throughput(best):,.0f} tok/s"
        accepted = self._losses_accepted(best)
        losses = "its losses are below the limits" if accepted else "no accuracy loss beyond noise was measured"
        claims += accepted
        text = f"{lead}, and {losses} on {count(len(best.tasks), 'task')}."
        worst = min(intervals(best).items(), key=lambda item: item[1].low, default=None)
        if worst and worst[1].low < 0:
            text += f" A loss of up to {100 * -worst[1].low:.1f} points ({worst[0]}) is not ruled out."
        tied = [row for row in safe if row is not best and not _is_clearly_faster(self.comparison, best, row)]
        if tied:
            text += f" Its throughput is not distinguishable from that of {listing(row.label for row in tied)}."
        return Sentence(kind="answer", text=text, claims=tuple(claims))

    def _losses_accepted(self, best: Row) -> list[Claim]:
        """Return the claims that each loss with a limit is below it; empty if no limit is set."""
        checks = self.candidates[best.name].checks
        return [c for check in checks if check.constraint.startswith("max_loss_points") for c in check.statement.claims]

    def _stay(self, faster: Sequence[Row]) -> tuple[Sentence, Row | None]:
        """Return the answer if no faster variant is known to meet the constraints."""
        assert self.baseline is not None
        undecided = [row.label for row in faster if self._stands(row, "open")]
        more = f" Undecided: {listing(undecided)}." if undecided else ""
        if self._stands(self.baseline, "admissible"):
            text = "BF16 meets the constraints, and no variant with more throughput is known to meet them."
            return plain("answer", text + more), self.baseline
        return plain("answer", f"No variant is known to meet the constraints.{more}"), None

    def _no_gain(self, timed: Sequence[Row]) -> Sentence:
        names = listing(row.label for row in timed) if len(timed) <= NAMED else f"any of {len(timed)} variants"
        uncertain = all(is_uncertain(row) for row in timed)
        reason = "a single run each, or identical runs, so their noise is unknown" if uncertain else ""
        return plain(
            "answer",
            f"No throughput gain over BF16 was shown on this machine for {names}{f' ({reason})' if reason else ''}.",
        )

    def _no_speed(self) -> Sentence:
        """Return the answer on accuracy and size alone, without any speed figure."""
        emulated = any(not row.claims_speed for row in self.others)
        why = "the other formats are emulated on this machine" if emulated else "no format was timed against BF16"
        admissible = [row for row in self.others if row.tasks and self._stands(row, "admissible")]
        text = f"No speed verdict: {why}."
        if admissible and self.constraints.is_empty:
            text += f" No accuracy loss beyond noise was measured for {listing(row.label for row in admissible)}."
        elif admissible:
            text += f" The constraints are met by {listing(row.label for row in admissible)}."
        sized = [(row.size.bytes, row.label) for row in admissible if isinstance(row.size, SizeCell)]
        if len(sized) > 1:
            least = min(sized)[0]
            text += f" Smallest of these: {listing(label for size, label in sized if size == least)}."
        return plain("answer", text)

    def _runner_up(self, best: Row) -> Row | None:
        """Return the next in throughput that is not excluded; BF16 only if it is known to be admissible."""
        rest = [
            row
            for row in self.comparison.rows
            if row is not best
            and row.claims_speed
            and isinstance(row.speed[THROUGHPUT.name], SpeedCell)
            and self._stands(row, "admissible", *([] if row.is_baseline else ["open"]))
        ]
        return max(rest, key=mean_throughput, default=None)

    def _reasons(self, best: Row | None, runner_up: Row | None) -> Iterable[Sentence]:
        if best is not None:
            constrained = {name for name in Constraints.model_fields if getattr(self.constraints, name)}
            for check in self.candidates[best.name].checks:
                if check.status == "met" and check.constraint.partition(".")[0] in constrained:
                    yield check.statement
        if best is not None and runner_up is not None:
            yield _next(self.comparison, best, runner_up, self.candidates[runner_up.name])
        floor = mean_throughput(best) if best else 0.0
        for row in sorted(self.comparison.rows, key=mean_throughput, reverse=True):
            beside = best is None or row.is_baseline or (row.claims_speed and mean_throughput(row) >= floor)
            if row is not best and beside:
                yield from (check.statement for check in self.candidates[row.name].broken)

    def _settle(self, best: Row | None, runner_up: Row | None) -> Iterable[Measurement]:
        """Yield measurements that could change the recommendation, or separate it from the runner-up."""
        floor = mean_throughput(best) if best else 0.0
        for row in self.comparison.rows:
            candidate = self.candidates[row.name]
            beside = best is None or (row.claims_speed and mean_throughput(row) >= floor)
            if row is best or candidate.standing != "open" or not beside or not _is_measured(row):
                continue
            for check in candidate.open:
                if (found := self._measurement(row, check)) is not None:
                    yield found
        if best is not None and runner_up is not None and not _is_clearly_faster(self.comparison, best, runner_up):
            yield _repeats(self.comparison, best, runner_up)
        if best is None and self.baseline is not None:
            for row in self.others:
                change = change_of(row, THROUGHPUT.name)
                if change is not None and not change.is_clear and not self._stands(row, "excluded"):
                    yield _repeats(self.comparison, row, self.baseline)

    def _measurement(self, row: Row, check: ConstraintCheck) -> Measurement | None:
        name, _, task = check.constraint.partition(".")
        if name in LATENCIES:
            metric = LATENCIES[name]
            title = within_text(metric.title)
            text = f"{row.label}: more repeats of the benchmark would settle its {title}."
            if not row.claims_speed:
                text = f"{row.label}: a machine that serves it natively would settle its {title}."
            return _open_measurement(row, metric.name, "benchmark", None, text)
        if name != "max_loss_points":
            return None
        change = paired(row).get(task)
        if change is None:
            text = f"{row.label}: {task} must be scored on the same items as BF16."
            return _open_measurement(row, task, "evaluation", None, text)
        needed = items_to_settle(change, self.constraints.max_loss_points.get(task, 0.0) / 100)
        text = (
            f"{row.label}: its loss on {task} is too close to the limit for any benchmark to decide."
            if needed is None
            else f"{row.label}: about {needed:,} items of {task} are needed to decide; {change.n:,} were answered."
        )
        return _open_measurement(row, task, "items", needed, text)


def _only_costly(faster: Sequence[Row]) -> Sentence:
    """Return the answer if faster formats exist but none is known to keep its accuracy."""
    ordered = sorted(faster, key=mean_throughput, reverse=True)
    claims = [claim(row, task, loss) for row in ordered for task, loss in losses(row).items()]
    for row in ordered:
        change = change_of(row, THROUGHPUT.name)
        assert change is not None
        claims.append(claim(row, THROUGHPUT.name, change))
    costly = [row.label for row in ordered if losses(row)]
    unknown = [row.label for row in ordered if not losses(row)]
    parts = ["No format is both faster and known to keep its accuracy here."]
    if costly:
        verbs = ("serves", "loses") if len(costly) == 1 else ("serve", "lose")
        names = listing(costly)
        parts.append(
            f"{names} {verbs[0]} more tokens per second than BF16 but {verbs[1]} accuracy on at least one task."
        )
    if unknown:
        verbs = ("serves", "has") if len(unknown) == 1 else ("serve", "have")
        names = listing(unknown)
        parts.append(f"{names} {verbs[0]} more tokens per second than BF16 but {verbs[1]} no complete accuracy result.")
    return Sentence(kind="answer", text=" ".join(parts), claims=tuple(claims))


def _next(comparison: Comparison, best: Row, runner_up: Row, candidate: Candidate) -> Sentence:
    change = throughput_over(comparison, best, runner_up)
    caveat = " It is undecided under the constraints." if candidate.standing == "open" else ""
    if change is None or not change.is_clear or change.percent < 0:
        text = (
            f"Runner-up: {runner_up.label}, whose throughput is not distinguishable from that of {best.label}.{caveat}"
        )
        if change is not None and change.is_clear:
            text = f"Runner-up: {runner_up.label}, with more throughput than {best.label}.{caveat}"
            return Sentence(kind="speed", text=text, claims=(_between(comparison, best, runner_up),))
        return plain("speed", text)
    text = (
        f"Runner-up: {runner_up.label}; {best.label} serves {change.percent:.1f} % more tokens per second "
        f"({percent_range(change)} %).{caveat}"
    )
    return Sentence(kind="speed", text=text, claims=(_between(comparison, best, runner_up),))


def _between(comparison: Comparison, best: Row, runner_up: Row) -> Claim:
    change = throughput_over(comparison, best, runner_up)
    assert change is not None and change.interval is not None
    return Claim(variant=best.name, against=runner_up.name, column=THROUGHPUT.name, interval=change.interval)


def _repeats(comparison: Comparison, best: Row, runner_up: Row) -> Measurement:
    needed = repeats_needed(comparison, best, runner_up)
    names = f"{best.label} and {runner_up.label}"
    text = f"{names}: {MORE_REPEATS}"
    if needed is not None:
        text = f"{names}: {needed.text} of each would separate their throughput, if it differs as measured."
    return Measurement(
        variant=best.name,
        against=runner_up.name,
        column=THROUGHPUT.name,
        kind="repeats",
        needed=needed.likely if needed else None,
        text=text,
    )


def open_points(recommendation: Recommendation) -> list[str]:
    """Return the measurements that would decide open questions, one line for those that variants share."""
    labels = {candidate.name: candidate.label for candidate in recommendation.candidates}
    unscored: dict[str, list[str]] = {}
    for each in recommendation.settle:
        if each.kind == "evaluation":
            unscored.setdefault(each.variant, []).append(each.column)
    points: dict[tuple[str, ...], list[Measurement]] = {}
    for each in recommendation.settle:
        if each.kind == "evaluation":
            alike: tuple[str, ...] = (each.kind, *unscored[each.variant])
        elif each.kind == "repeats" and each.needed is None:
            alike = (each.kind, each.against, each.column)
        else:
            alike = (each.text,)
        points.setdefault(alike, []).append(each)
    return [_line(group, labels) for group in points.values()]


def _line(group: Sequence[Measurement], labels: Mapping[str, str]) -> str:
    """Return one line for measurements that several variants share."""
    first, names = group[0], listing(dict.fromkeys(labels[each.variant] for each in group))
    if all(each.text == first.text for each in group):
        return first.text
    if first.kind == "evaluation":
        tasks = list(dict.fromkeys(each.column for each in group))
        return f"{names}: {listing(tasks)} must be scored on the same items as BF16."
    return f"{names}, each with {labels.get(first.against, first.against)}: {MORE_REPEATS}"


def _open_measurement(
    row: Row, column: str, kind: Literal["items", "benchmark", "evaluation"], needed: int | None, text: str
) -> Measurement:
    return Measurement(variant=row.name, against="bf16", column=column, kind=kind, needed=needed, text=text)


def _is_measured(row: Row) -> bool:
    """Return True if it has any figure; a variant without one needs other hardware, not more measurements."""
    return any(not isinstance(cell, Missing) for cell in (*row.speed.values(), *row.tasks.values()))


def _is_clearly_faster(comparison: Comparison, row: Row, other: Row) -> bool:
    change = throughput_over(comparison, row, other)
    return change is not None and change.is_clear and change.percent > 0
