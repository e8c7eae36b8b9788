"""The recommended variant under constraints: reasons, runner-up, and measurements that would decide open questions.

The recommended variant is the best admissible one by the objective, provided its gain over BF16 is clear or BF16
itself is excluded. Of variants that are equal by the objective, it is the one with the least KL divergence from BF16.
A variant is admissible if it is *no worse* on every task, excluded if it is *worse* on one, by the verdicts of the
table; else its accuracy is open, and the answer says which items would decide it. A speed measured while a guard
failed, the variant's or BF16's, is not ranked. The runner-up is the next best that is not excluded.
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
from pipeline.compare.decide.differences import baseline_of, claim
from pipeline.compare.decide.losses import losses, scored, verdict_at, within, worst_loss
from pipeline.compare.decide.measurements import Measurement, more_repeats, open_points
from pipeline.compare.decide.objective import Name as ObjectiveName
from pipeline.compare.decide.objective import Objective, more_divergent, under
from pipeline.compare.decide.open_accuracy import LOSS, accuracy_summary, divergences, needs
from pipeline.compare.statements import Claim, Sentence, count, listing, plain, within_text
from pipeline.results.base import Frozen, Missing

# Headlines with more variants than these give their number, not their names.
NAMED = 4


class Recommendation(Frozen):
    """The answer and everything that it rests on."""

    answer: Sentence
    reasons: tuple[Sentence, ...]
    recommended: str | None
    runner_up: str | None
    objective: ObjectiveName = "throughput"
    constraints: Constraints
    candidates: tuple[Candidate, ...]
    settle: tuple[Measurement, ...]
    # Where speeds were measured, if not on the constrained hardware, as a sentence after a space.
    elsewhere: str = ""

    @property
    def open_points(self) -> list[str]:
        """The measurements that would decide open questions, one line for those that variants share."""
        return open_points(self.settle, {candidate.name: candidate.label for candidate in self.candidates})


def recommend(
    comparison: Comparison,
    constraints: Constraints | None = None,
    requirements: Mapping[str, Requirements] | None = None,
    objective: ObjectiveName = "throughput",
) -> Recommendation:
    """Return the answer to the report's question.

    Args:
        comparison: the results.
        constraints: the constraints of the deployment.
        requirements: those of each variant, for constraints on memory and hardware.
        objective: the quantity to optimize.
    """
    chosen = Objective(comparison, objective)
    return _Decision(comparison, constraints or Constraints(), requirements or {}, chosen).recommendation()


class _Decision:
    """The rows with their standing under the constraints."""

    def __init__(
        self,
        comparison: Comparison,
        constraints: Constraints,
        requirements: Mapping[str, Requirements],
        objective: Objective,
    ) -> None:
        self.comparison, self.constraints, self.objective = comparison, constraints, objective
        self.machines = dict.fromkeys(each.measured_on for each in requirements.values() if each.measured_on)
        self.baseline = baseline_of(comparison)
        self.others = [row for row in comparison.rows if not row.is_baseline]
        self.candidates = {
            row.name: examine(row, constraints, requirements.get(row.name), objective.marks(row))
            for row in comparison.rows
        }

    def recommendation(self) -> Recommendation:
        answer, best = self._answer()
        runner_up = self._runner_up(best) if best else None
        return Recommendation(
            answer=answer.model_copy(update={"text": answer.text + self._elsewhere()}),
            reasons=tuple(self._reasons(best, runner_up)),
            recommended=best.name if best else None,
            runner_up=runner_up.name if runner_up else None,
            objective=self.objective.name,
            constraints=self.constraints,
            candidates=tuple(self.candidates.values()),
            settle=tuple(self._settle(best, runner_up)),
            elsewhere=self._elsewhere(),
        )

    def _elsewhere(self) -> str:
        """Say that speeds are not those of the constrained hardware; empty if they are."""
        if not self.machines or not self.objective.is_speed:
            return ""
        return f" Speeds were measured on {listing(self.machines)}, not on {self.constraints.hardware}."

    def _stands(self, row: Row, *standings: str) -> bool:
        return self.candidates[row.name].standing in standings

    def _is_ranked(self, row: Row) -> bool:
        """Return True if its figure may be claimed: BF16's and its own were measured without a failed guard."""
        assert self.baseline is not None
        if self.objective.marks(row) or self.objective.marks(self.baseline):
            return False
        return self.objective.change(row) is not None

    def _answer(self) -> tuple[Sentence, Row | None]:
        if not self.comparison.is_measured:
            return plain("answer", "No verdict: nothing has been measured yet."), None
        if self.baseline is None:
            return plain("answer", "No verdict: without a BF16 result there is nothing to compare with."), None
        if not self.others:
            return plain("answer", "No verdict: BF16 is the only variant with results."), None
        ranked = [row for row in self.others if self._is_ranked(row)]
        if not ranked:
            return self._unranked(), None
        replaced = self._stands(self.baseline, "excluded")
        faster = [row for row in ranked if replaced or self.objective.gains(row)]
        safe = [row for row in faster if self._stands(row, "admissible") and row.tasks]
        if safe:
            best = self.objective.order(safe)[0]
            return self._best(best, safe, faster, replaced), best
        if not self.constraints.is_empty:
            return self._stay(faster)
        if not faster:
            return self._no_gain(ranked), None
        undecided = [row for row in faster if not self._stands(row, "excluded")]
        return self._undecided(undecided) if undecided else self._only_costly(faster), None

    def _best(self, best: Row, safe: Sequence[Row], faster: Sequence[Row], replaced: bool) -> Sentence:
        """Return the statement on the best admissible variant, with those that cannot be told from it."""
        objective, claims = self.objective, []
        change = objective.change(best)
        if objective.gains(best) and change is not None:
            lead, claims = objective.lead(best, change), [objective.claim(best, change)]
            lead += " (which does not meet the constraints)" if replaced else ""
        else:
            lead = f"{best.label} meets the constraints, which BF16 does not, at {objective.shown(best)}"
        claims += self._losses_accepted(best)
        limits = within(best, self.constraints.loss_limits)
        text = f"{lead}, and is no worse on {count(len(best.tasks), 'task')} ({limits})."
        if worst := worst_loss(best):
            text += f" A loss of more than {100 * worst[1]:.1f} points is ruled out ({worst[0]})."
        others = [row for row in safe if row is not best]
        if equal := [row for row in others if objective.is_equal(row, best)]:
            text += f" Of equal {objective.noun}: {listing(more_divergent(row, best) for row in equal)}."
        if tied := [row for row in others if not self._is_settled(best, row)]:
            text += f" Its {objective.noun} cannot be told from that of {listing(row.label for row in tied)}."
        undecided = [
            row
            for row in faster
            if self._stands(row, "open")
            and objective.rank(row) > objective.rank(best)
            and not objective.is_equal(row, best)
        ]
        if undecided:
            text += f" Better in {objective.noun}, but not known to be admissible: {_named(undecided)}."
        return Sentence(kind="answer", text=text, claims=tuple(claims))

    def _losses_accepted(self, best: Row) -> list[Claim]:
        """Return the claims that each loss is below its margin."""
        checks = self.candidates[best.name].checks
        return [c for check in checks if check.constraint.startswith(LOSS) for c in check.statement.claims]

    def _stay(self, faster: Sequence[Row]) -> tuple[Sentence, Row | None]:
        """Return the answer if no better variant is known to meet the constraints."""
        assert self.baseline is not None
        undecided = [row.label for row in faster if self._stands(row, "open")]
        more = f" Open: {listing(undecided)}." if undecided else ""
        if self._stands(self.baseline, "admissible"):
            gain = {"throughput": "with more throughput", "tpot": "with less time per token", "size": "that is smaller"}
            text = f"BF16 meets the constraints, and no variant {gain[self.objective.name]} is known to meet them."
            return plain("answer", text + more), self.baseline
        return plain("answer", f"No variant is known to meet the constraints.{more}"), None

    def _undecided(self, rows: Sequence[Row]) -> Sentence:
        """Return the answer if better variants exist, and their accuracy is open."""
        ordered = self.objective.order(rows)
        first = ordered[0]
        change = self.objective.change(first)
        assert change is not None
        best = {"throughput": "Fastest", "tpot": "Fastest", "size": "Smallest"}[self.objective.name]
        text = f"{best}, accuracy open: {self.objective.lead(first, change)}"
        text += f"; {needs(first, self.candidates[first.name], self.constraints) or 'no task was scored'}."
        if len(ordered) > 1:
            text += f" Open as well: {_named(ordered[1:])}."
        claims = (self.objective.claim(first, change),)
        return Sentence(kind="answer", text=text + divergences(ordered), claims=claims)

    def _only_costly(self, better: Sequence[Row]) -> Sentence:
        """Return the answer if each better variant loses accuracy."""
        ordered = self.objective.order(better)
        claims = [claim(row, task, loss) for row in ordered for task, loss in losses(row).items()]
        for row in ordered:
            change = self.objective.change(row)
            assert change is not None
            claims.append(self.objective.claim(row, change))
        more = {
            "throughput": ("serves more tokens per second", "serve more tokens per second"),
            "tpot": ("takes less time per token", "take less time per token"),
            "size": ("is smaller", "are smaller"),
        }[self.objective.name]
        one = len(ordered) == 1
        text = (
            f"No format is both {'smaller' if self.objective.name == 'size' else 'faster'} and no worse here. "
            f"{listing(row.label for row in ordered)} {more[0 if one else 1]} than BF16 but "
            f"{'loses' if one else 'lose'} accuracy on at least one task."
        )
        return Sentence(kind="answer", text=text, claims=tuple(claims))

    def _no_gain(self, ranked: Sequence[Row]) -> Sentence:
        names = listing(row.label for row in ranked) if len(ranked) <= NAMED else f"any of {len(ranked)} variants"
        uncertain = all((change := self.objective.change(row)) and change.interval is None for row in ranked)
        reason = "a single run each, or identical runs, so their noise is unknown" if uncertain else ""
        gain = {"throughput": "throughput gain", "tpot": "shorter time per token", "size": "smaller size"}
        at = f" {under(self.objective.load)}" if self.objective.load else ""
        text = f"No {gain[self.objective.name]} over BF16 was shown on this machine{at} for {names}"
        return plain("answer", f"{text}{f' ({reason})' if reason else ''}.")

    def _unranked(self) -> Sentence:
        """Return the answer on accuracy and size alone, without any figure of the objective."""
        assert self.baseline is not None
        timed = [row for row in self.others if isinstance(row.speed[row.throughput], SpeedCell)]
        marked = [row.label for row in (self.baseline, *timed) if self.objective.marks(row)]
        if not self.objective.is_speed:
            text = "No verdict: no checkpoint's size can be compared with BF16's."
        elif marked and timed:
            verb = "was" if len(marked) == 1 else "were"
            text = f"No speed verdict: a guard failed while {listing(marked)} {verb} measured. Measure again."
        else:
            emulated = any(row.emulated for row in self.others)
            why = "the other formats are emulated on this machine" if emulated else "no format was timed against BF16"
            text = f"No speed verdict: {why}."
        scored_rows = [row for row in self.others if row.tasks]
        admissible = [row for row in scored_rows if self._holds(row)]
        if admissible and self.constraints.is_empty:
            limits = within(admissible[0], {})
            text += f" No worse than BF16 on every task ({limits}): {listing(row.label for row in admissible)}."
        elif admissible:
            text += f" The constraints are met by {listing(row.label for row in admissible)}."
        sized = [(row.size.bytes, row.label) for row in admissible if isinstance(row.size, SizeCell)]
        if len(sized) > 1:
            least = min(sized)[0]
            text += f" Smallest of these: {listing(label for size, label in sized if size == least)}."
        measured = [row for row in scored_rows if _is_measured(row)]
        return plain("answer", text + accuracy_summary(measured, self.candidates, self.constraints))

    def _holds(self, row: Row) -> bool:
        """Return True if all but its speed is known to be admissible."""
        rest = [check for check in self.candidates[row.name].checks if check.constraint != "measurement"]
        return all(check.status == "met" for check in rest)

    def _runner_up(self, best: Row) -> Row | None:
        """Return the next best that is not excluded; BF16 only if it is known to be admissible."""
        rest = [
            row
            for row in self.comparison.rows
            if row is not best
            and not self.objective.marks(row)
            and self.objective.figure(row) is not None
            and self._stands(row, "admissible", *([] if row.is_baseline else ["open"]))
        ]
        return next(iter(self.objective.order(rest)), None)

    def _reasons(self, best: Row | None, runner_up: Row | None) -> Iterable[Sentence]:
        if best is not None:
            constrained = {name for name in Constraints.model_fields if getattr(self.constraints, name)}
            for check in self.candidates[best.name].checks:
                if check.status == "met" and check.constraint.partition(".")[0] in constrained:
                    yield check.statement
        if best is not None and runner_up is not None:
            yield self._next(best, runner_up)
        for row in self.objective.order(self.comparison.rows):
            if row is not best and (row.is_baseline or self._is_beside(row, best)):
                yield from (check.statement for check in self.candidates[row.name].broken)

    def _is_beside(self, row: Row, best: Row | None) -> bool:
        """Return True if a variant could take the place of the recommended one."""
        return best is None or self.objective.order([row, best])[0] is row

    def _settle(self, best: Row | None, runner_up: Row | None) -> Iterable[Measurement]:
        """Yield measurements that could change the recommendation, or separate it from the runner-up."""
        for row in self.comparison.rows:
            candidate = self.candidates[row.name]
            if row is best or candidate.standing != "open" or not self._is_beside(row, best) or not _is_measured(row):
                continue
            for check in candidate.open:
                if (found := self._measurement(row, check)) is not None:
                    yield found
        if not self.objective.is_speed:
            return
        if best is not None and runner_up is not None and not self._is_settled(best, runner_up):
            yield self._repeats(best, runner_up)
        if best is None and self.baseline is not None:
            for row in self.others:
                change = self.objective.change(row)
                if change is not None and not change.is_clear and not self._stands(row, "excluded"):
                    yield self._repeats(row, self.baseline)

    def _is_clearly_better(self, row: Row, other: Row) -> bool:
        change = self.objective.between(row, other)
        return change is not None and self.objective.is_better(change)

    def _is_settled(self, best: Row, other: Row) -> bool:
        """Return True if more repeats would not change which of two is recommended."""
        return self._is_clearly_better(best, other) or self.objective.is_equal(best, other)

    def _next(self, best: Row, runner_up: Row) -> Sentence:
        objective, change = self.objective, self.objective.between(best, runner_up)
        caveat = " It is open under the constraints." if self._stands(runner_up, "open") else ""
        if objective.is_equal(runner_up, best):
            text = f"Runner-up: {runner_up.label}, whose {objective.noun} equals that of {best.label}.{caveat}"
            return plain("speed", text)
        if change is None or not change.is_clear:
            text = f"Runner-up: {runner_up.label}, whose {objective.noun} cannot be told from that of "
            return plain("speed", f"{text}{best.label}.{caveat}")
        claims = (objective.claim(best, change, runner_up.name),)
        if objective.is_better(change):
            text = f"Runner-up: {runner_up.label}; {objective.better(best, runner_up, change)}.{caveat}"
        else:
            text = f"Runner-up: {runner_up.label}, with a better {objective.noun} than {best.label}.{caveat}"
        return Sentence(kind="speed", text=text, claims=claims)

    def _repeats(self, row: Row, other: Row) -> Measurement:
        needed = self.objective.repeats_needed(row, other)
        names = f"{row.label} and {other.label}"
        text = (
            more_repeats(self.objective.column())
            if needed is None
            else f"{needed.text} of each would separate their {self.objective.noun}, if it differs as measured."
        )
        return Measurement(
            variant=row.name,
            against=other.name,
            column=self.objective.column(),
            kind="repeats",
            needed=None if needed is None else needed.likely,
            text=f"{names}: {text}",
        )

    def _measurement(self, row: Row, check: ConstraintCheck) -> Measurement | None:
        name, _, task = check.constraint.partition(".")
        if name in LATENCIES:
            metric = LATENCIES[name]
            title = within_text(metric.title)
            text = f"{row.label}: more repeats of the benchmark would settle its {title}."
            if row.emulated:
                text = f"{row.label}: a machine that serves it natively would settle its {title}."
            return _open_measurement(row, metric.name, "benchmark", None, text)
        if name == "measurement":
            failed = tuple(dict.fromkeys(mark.partition(": ")[0] for mark in self.objective.marks(row)))
            again = _open_measurement(row, self.objective.column(), "benchmark", None, check.statement.text)
            return again.model_copy(update={"guards": failed})
        if name != LOSS.rstrip("."):
            return None
        cell = scored(row).get(task)
        loss = None if cell is None else verdict_at(cell, self.constraints.loss_limits.get(task))
        if cell is None or loss is None:
            text = f"{row.label}: {task} must be scored on the same items as BF16."
            return _open_measurement(row, task, "evaluation", None, text)
        if loss.blind or loss.items is None:
            blind = _open_measurement(row, task, "items", None, f"{row.label}: {task} cannot decide: {loss.blind}.")
            return blind.model_copy(update={"blind": loss.blind or ""})
        text = f"{row.label}: {loss.items.text(f'items of {task}')} are needed to decide"
        return _open_measurement(row, task, "items", loss.items_needed, f"{text}; {cell.accuracy.n:,} were answered.")


def _named(rows: Sequence[Row]) -> str:
    return listing(row.label for row in rows) if len(rows) <= NAMED else f"{len(rows)} variants"


def _open_measurement(
    row: Row, column: str, kind: Literal["items", "benchmark", "evaluation"], needed: int | None, text: str
) -> Measurement:
    return Measurement(variant=row.name, against="bf16", column=column, kind=kind, needed=needed, text=text)


def _is_measured(row: Row) -> bool:
    """Return True if it has any figure; a variant without one needs other hardware, not more measurements."""
    return any(not isinstance(cell, Missing) for cell in (*row.speed.values(), *row.tasks.values()))
