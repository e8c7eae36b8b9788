"""The head of the report: deploy a variant, keep BF16, or measure first, and what that rests on in two sentences.

It says what the recommendation (`recommendation`) means for a deployment. Where the speed of BF16 itself is not
known, no format is blamed for it: there is no answer on speed, and the benchmark is to be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.decide.differences import baseline_of, variation, variation_text
from pipeline.compare.decide.losses import losses, scored, worst_loss
from pipeline.compare.decide.objective import Objective, more_divergent, under
from pipeline.compare.decide.recommendation import NAMED, Recommendation
from pipeline.compare.statements import count, in_points, listing, signed
from pipeline.compare.stats.noninferiority import LossVerdict
from pipeline.compare.words import MEANINGS, quality_words, task_word
from pipeline.results.base import Frozen
from pipeline.results.bench import BOTTLENECK

# From here on a run could not have shown the gains that formats have: BF16's repeats differ by so many times, or the
# smallest gain that would have been shown is so many percent.
NOISY_TIMES = 1.5
NOISY_PERCENT = 30.0
# What takes work off the process in front of the engine (`vllm serve`).
FRONT_END_ARGS = ("--api-server-count=4", "--stream-interval=8")
FRONT_END = (
    "Work on the CPU in front of it limited BF16, so a faster format could not show its gain. Give the server more "
    "processes, or judge fewer requests in flight (bench=ladder)."
)

Stage = Literal["bench", "eval"]


class Decision(Frozen):
    """The action that the results call for, and its grounds.

    Attributes:
        kind: deploy a variant, keep BF16, or measure first.
        variant: the variant to deploy or keep; None if that is open.
        title: what to do, in a line.
        text: what it rests on.
        stages: the stages that would decide what is open, empty if none would.
        needs_items: True if an evaluation decides with more items.
        serve_args: arguments of `vllm serve` that the measurement needs, where it would repeat itself without.
    """

    kind: Literal["deploy", "keep", "measure"]
    variant: str | None = None
    title: str
    text: str
    stages: tuple[Stage, ...] = ()
    needs_items: bool = False
    serve_args: tuple[str, ...] = ()


def decide(comparison: Comparison, chosen: Recommendation) -> Decision:
    """Return the head of the report on these results."""
    return _Head(comparison, chosen).decision()


class Fault(NamedTuple):
    """A reason why there is no answer on speed, and what would give one."""

    title: str
    reason: str
    stages: tuple[Stage, ...]
    serve_args: tuple[str, ...] = ()


class _Head:
    def __init__(self, comparison: Comparison, chosen: Recommendation) -> None:
        self.comparison, self.chosen = comparison, chosen
        self.objective = Objective(comparison, chosen.objective)
        self.baseline = baseline_of(comparison)
        self.others = [row for row in comparison.rows if not row.is_baseline]
        self.standing = {each.name: each.standing for each in chosen.candidates}
        self.timed = [row for row in self.others if isinstance(row.speed[row.throughput], SpeedCell)]

    def decision(self) -> Decision:
        if not self.comparison.is_measured:
            text = "Nothing has been measured yet."
            return Decision(kind="measure", title="No answer yet.", text=text, stages=("bench", "eval"))
        if self.baseline is None or not self.others:
            text = "There is nothing to compare with: variants needs bf16 and at least one format, with results."
            return Decision(kind="measure", title="No answer yet.", text=text)
        if self.chosen.recommended is not None:
            return self._recommended(self.chosen.recommended)
        if not self.chosen.constraints.is_empty:
            title, _, text = self.chosen.answer.text.partition(". ")
            return self._open(f"{title.rstrip('.')}.", text)
        if self.objective.is_speed and (fault := self._speed_fault()) is not None:
            return self._no_speed(fault)
        faster = [row for row in self._unmarked() if self.objective.gains(row)]
        if undecided := [row for row in faster if self.standing[row.name] != "excluded"]:
            return self._undecided(undecided)
        return self._keep(faster)

    def _recommended(self, name: str) -> Decision:
        row = next(row for row in self.comparison.rows if row.name == name)
        if row.is_baseline:
            return Decision(kind="keep", variant=name, title="Keep BF16.", text=self.chosen.answer.text)
        bound = worst_loss(row)
        text = f"{self._gain(row)}, {row_quality(row)}"
        text += f"; a loss of more than {100 * bound[1]:.1f} points is ruled out ({bound[0]})." if bound else "."
        text += self.chosen.elsewhere
        if self.chosen.runner_up is not None:
            other = next(each for each in self.comparison.rows if each.name == self.chosen.runner_up)
            equal = self.objective.is_equal(other, row)
            beside = f"{more_divergent(other, row)}, of equal {self.objective.noun}" if equal else other.label
            text += f" Runner-up: {beside}."
        return Decision(kind="deploy", variant=name, title=f"Deploy {row.label}.", text=text)

    def _gain(self, row: Row) -> str:
        """Return the change of the objective against BF16 in a few words."""
        change, load = self.objective.change(row), under(self.objective.load)
        if change is None:
            return f"It meets the constraints, at {self.objective.shown(row)}"
        if self.objective.name == "size":
            return f"{-change.percent:.0f} % smaller than BF16"
        noun = f"tokens per second{row.per_gpu}" if self.objective.name == "throughput" else "time per output token"
        text = f"{signed(change.percent)} % {noun} against BF16"
        if change.interval is not None:
            limit = f"; {change.qualification}" if change.qualification else ""
            text += f" ({signed(change.interval.low)} to {signed(change.interval.high)}{limit})"
        return f"{text} {load}" if load else text

    def _speed_fault(self) -> Fault | None:
        """Return why there is no answer on speed; None if there is one."""
        assert self.baseline is not None
        if not self.timed:
            if any(row.emulated for row in self.others):
                return Fault("this machine emulates the formats", "Run it on the GPU that you deploy on.", ())
            return Fault("speed was not measured", "", ("bench",))
        if any(mark.partition(":")[0] == BOTTLENECK for mark in self.objective.marks(self.baseline)):
            return Fault("the engine was not the bottleneck", FRONT_END, ("bench",), FRONT_END_ARGS)
        gains = [row for row in self._unmarked() if self.objective.gains(row)]
        varied, smallest = variation(self.baseline), self.comparison.smallest_gains.get(self.comparison.throughput.name)
        is_noisy = not gains and (
            (varied is not None and varied >= NOISY_TIMES) or (smallest is not None and smallest >= NOISY_PERCENT)
        )
        if is_noisy:
            varied_text = variation_text(self.comparison) or "the repeats differ too much"
            return Fault(varied_text, _quiet(smallest), ("bench",))
        if not self._unmarked():
            marked = {row.label: self.objective.marks(row) for row in (self.baseline, *self.timed)}
            labels = [label for label, marks in marked.items() if marks]
            guards = listing(dict.fromkeys(mark.partition(":")[0] for marks in marked.values() for mark in marks))
            names = listing(labels) if len(labels) <= NAMED else f"{len(labels)} variants"
            found = variation_text(self.comparison)
            reason = f"Guards failed while {names} ran: {guards}.{f' {found}.' if found else ''}"
            if varied is not None and varied >= NOISY_TIMES:
                return Fault(found, reason, ("bench",))
            return Fault("the measurement is unreliable", reason, ("bench",))
        return None

    def _unmarked(self) -> list[Row]:
        """Return the timed variants whose speed may be ranked: no guard failed for them or BF16."""
        assert self.baseline is not None
        if not self.objective.is_speed:
            return [row for row in self.others if self.objective.change(row) is not None]
        marks = self.objective.marks
        return [] if marks(self.baseline) else [row for row in self.timed if not marks(row)]

    def _no_speed(self, fault: Fault) -> Decision:
        text = " ".join(part for part in (fault.reason, quality_summary(self.comparison), self._smallest()) if part)
        scores = () if any(scored(row) for row in self.others) else ("eval",)
        return Decision(
            kind="measure",
            title=f"No speed answer: {fault.title}.",
            text=text,
            stages=(*fault.stages, *scores),
            serve_args=fault.serve_args,
        )

    def _open(self, title: str, text: str) -> Decision:
        kinds = {each.kind for each in self.chosen.settle}
        stages: list[Stage] = ["bench"] if kinds & {"repeats", "benchmark"} else []
        stages += ["eval"] if kinds & {"items", "evaluation"} else []
        return Decision(kind="measure", title=title, text=text, stages=tuple(stages), needs_items="items" in kinds)

    def _undecided(self, rows: Sequence[Row]) -> Decision:
        """Return the answer if better variants exist, and their accuracy is open."""
        first = self.objective.order(rows)[0]
        best = "Smallest" if self.objective.name == "size" else "Fastest"
        is_scored = bool(scored(first))
        title = f"{best} so far: {first.label}; its quality {'cannot be told yet' if is_scored else 'is not measured'}."
        text = f"{self._gain(first)}, {row_quality(first)}."
        needs_items = any(each.kind == "items" and each.variant == first.name for each in self.chosen.settle)
        return Decision(kind="measure", title=title, text=text, stages=("eval",), needs_items=needs_items)

    def _keep(self, faster: Sequence[Row]) -> Decision:
        assert self.baseline is not None
        word = {"throughput": "faster", "tpot": "faster", "size": "smaller"}[self.objective.name]
        if faster:
            lost = [
                f"{row.label} {in_points(min(change.difference for change in found.values()))} points"
                for row in faster
                if (found := losses(row))
            ]
            text = f"What is {word} loses accuracy: {listing(lost[:NAMED])}." if lost else ""
        else:
            smallest = self.comparison.smallest_gains.get(self.comparison.throughput.name)
            text = f"No format is shown to be {word}"
            shown = smallest is not None and self.objective.name == "throughput"
            text += f"; a gain of {smallest:.0f} % would have been shown in four of five runs." if shown else "."
        text = " ".join(part for part in (text, quality_summary(self.comparison), self._smallest()) if part)
        return Decision(kind="keep", variant=self.baseline.name, title="Keep BF16.", text=text)

    def _smallest(self) -> str:
        """Name the smallest variant that is not worse on any task; empty if none is smaller."""
        size = Objective(self.comparison, "size")
        smaller = [
            row
            for row in self.others
            if size.gains(row)
            and scored(row)
            and all(task_word(cell) in ("no worse", "better") for cell in row.tasks.values())
        ]
        if not smaller:
            return ""
        row = size.order(smaller)[0]
        change = size.change(row)
        assert change is not None
        return f"Smallest that is no worse: {row.label}, {1 + change.percent / 100:.2f} of BF16's size."


def _quiet(smallest: float | None) -> str:
    """Say which gains the run could not have shown."""
    hidden = "" if smallest is None else f"A gain below {smallest:.0f} % may go unseen. "
    return f"{hidden}Repeat it on an idle machine."


def row_quality(row: Row) -> str:
    """Describe a variant's accuracy by the words of its tasks."""
    if not scored(row):
        return "quality not measured"
    words = {task: task_word(cell) for task, cell in row.tasks.items()}
    good = [task for task, word in words.items() if word in ("no worse", "better")]
    if len(good) == len(words):
        return f"no worse on {count(len(good), 'task')}"
    parts = [f"no worse on {len(good)} of {count(len(words), 'task')}"] if good else []
    for word in ("worse", "cannot tell", "not measured"):
        if tasks := [task for task, found in words.items() if found == word]:
            parts.append(f"{word} on {listing(tasks)}" if word != "not measured" else f"{listing(tasks)} not measured")
    return ", ".join(parts)


def quality_summary(comparison: Comparison) -> str:
    """Count the words of all comparisons of accuracy."""
    counts = quality_words(comparison)
    total = sum(number for word, number in counts.items() if word != "not measured")
    if not total:
        return "Quality: not measured."
    parts = [f"{word} in {counts[word]}" for word in MEANINGS if counts.get(word) and word != "not measured"]
    return f"Quality: of {count(total, 'comparison')}, {listing(parts)}."


def worst_task(row: Row) -> tuple[str, TaskCell] | None:
    """Return the task that speaks most against a variant: the worst word, then the largest loss not ruled out."""
    order = ("worse", "cannot tell", "no worse", "better")
    judged = [(task, cell, cell.loss) for task, cell in scored(row).items() if isinstance(cell.loss, LossVerdict)]
    if not judged:
        return None

    def badness(each: tuple[str, TaskCell, LossVerdict]) -> tuple[int, float]:
        _, cell, loss = each
        return order.index(task_word(cell)), loss.interval.low if loss.interval else -1.0

    task, cell, _ = min(judged, key=badness)
    return task, cell
