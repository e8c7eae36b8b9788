"""Allocation of a study's minutes: measure further only what may still change the answer.

The answer is the fastest variant with a clear gain over BF16 and no loss beyond the margin on any task. A full run
gives every variant all blocks and all items. Successive elimination (E. Even-Dar, S. Mannor, Y. Mansour, J. Mach.
Learn. Res. 7, 2006) instead proceeds in rounds:

1. every variant has the KL divergence of a few conversations and one short block (`screen`);
2. a variant is dropped that cannot be the answer: its distributions are far from BF16's, or all blocks would hardly
   show it faster than BF16, or all items would hardly rule out a loss beyond the margin on a task;
3. the fastest of the rest leads. While others may be faster in the end, those have further blocks, with BF16 in each;
4. the leader has items, in the stages of `Design.stages`, all of BF16's first. If it is dropped, the next one leads. If
   all items rule out a loss on every task, it is the answer, and all others are dropped as slower.

Steps 3 and 4 go by price: the leader's next items come before blocks if these cost more in all, and so do those of
another variant before its own blocks, since a loss saves the blocks.

So the answer is measured in full, by the tests of the report. Errors are those of dropping it. A measurement is stopped
by predictive power: the probability that all blocks, or all items, would still give another result, given those so far
and nothing else (D. Spiegelhalter, L. Freedman, P. Blackburn, Controlled Clinical Trials 7, 1986). As it is that of the
final result, it may be looked at after every round. It must be below

* ALPHA / 2 for one that is left out as slower than the leader, by S. Holm's correction for all that may be faster
  (Scand. J. Statist. 6, 1979): the leader is the fastest of several, in part by chance;
* ALPHA / 2 divided by the tasks, for a loss on one of them;
* ALPHA / 2 divided by the variants, for one that is slower than BF16.

Nothing is run here: `allocate` has the results so far and returns what to measure next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr, ndtri

from pipeline.compare.decide.speed_chances import SCREEN, Block, SpeedChances
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import tango
from pipeline.compare.stats.sample_size import LEVEL
from pipeline.results.base import Frozen
from pipeline.results.text import signed_percent

ALPHA = 0.05
Kind = Literal["screen", "kl", "block", "items"]
# Shares of the items, ascending; the last is 1.
STAGES = (0.1, 0.3, 1.0)


class Pairs(Frozen):
    """Items of a task that only the variant, or only BF16, answers correctly, of `n` items."""

    gained: int
    lost: int
    n: int


class Evidence(Frozen):
    """Results of a variant so far; blocks by number, the screen as `SCREEN`. BF16 has pairs with itself."""

    blocks: dict[int, Block] = Field({})
    kl: Interval | None = None
    tasks: dict[str, Pairs] = Field({})

    @property
    def full_blocks(self) -> int:
        """The number of blocks without the screen."""
        return len(self.blocks.keys() - {SCREEN})


class TaskPlan(Frozen):
    """A task: all its items, the accepted loss as a share, and the minutes of one item."""

    items: int
    margin: float
    minutes: float


class Design(Frozen):
    """The full run, and its costs in minutes.

    Attributes:
        tasks: by label.
        blocks, repeats: blocks of each variant, and repeats of a block; the screen has one.
        stages: shares of the items, ascending, the last is 1.
        session_percent: standard deviation of a server's speed from start to start.
        max_kl: nats per token; a variant that is clearly above is dropped.
        screen, kl: of one variant, by the server that its gate has started.
        block: of one variant, with the start of its server.
        start: of a server that scores items.
        bench_budget, eval_budget: None for no limit.
    """

    tasks: dict[str, TaskPlan]
    blocks: int
    stages: tuple[float, ...] = STAGES
    repeats: int = 3
    session_percent: float = 2.0
    max_kl: float = 0.5
    screen: float
    kl: float
    block: float
    start: float
    bench_budget: float | None = None
    eval_budget: float | None = None

    def items(self, task: str, stage: int) -> int:
        """Return the number of items of a task after so many stages."""
        return math.ceil(self.stages[stage - 1] * self.tasks[task].items) if stage else 0


class Step(Frozen):
    """A measurement to make: `stage` counts the stages of items, for all tasks of the design."""

    variant: str
    kind: Kind
    stage: int = 0
    minutes: float


class Allocation(Frozen):
    """The next round.

    Attributes:
        steps: to run now, none if the study is finished.
        dropped: by variant, the reason why it is not measured further.
        answer: the fastest variant without loss; None if there is none, or not yet.
        unaffordable: the steps that the budget does not allow.
    """

    steps: tuple[Step, ...]
    dropped: dict[str, str]
    answer: str | None = None
    unaffordable: tuple[Step, ...] = ()


def allocate(
    evidence: Mapping[str, Evidence], baseline: str, design: Design, spent: Mapping[Kind, float] | None = None
) -> Allocation:
    """Return what to measure next.

    Args:
        evidence: the results of every variant, BF16 included.
        baseline: the name of BF16.
        design: the full run and its costs.
        spent: minutes so far, by kind.
    """
    return _Study(evidence, baseline, design, spent or {}).next_round()


def answer(evidence: Mapping[str, Evidence], baseline: str, design: Design) -> str | None:
    """Return the fastest variant with a clear gain over BF16 that is measured in full and loses nothing."""
    study = _Study(evidence, baseline, design, {})
    admissible = [name for name in study.others if study.gains(name) and study.is_admissible(name)]
    return max(admissible, key=study.gain, default=None)


def cost(steps: Iterable[Step]) -> float:
    """Return the minutes of several steps."""
    return math.fsum(step.minutes for step in steps)


class _Study:
    """The results so far with the comparisons that decide."""

    def __init__(
        self, evidence: Mapping[str, Evidence], baseline: str, design: Design, spent: Mapping[Kind, float]
    ) -> None:
        self.evidence, self.baseline, self.design, self.spent = evidence, baseline, design, spent
        self.others = [name for name in evidence if name != baseline]
        self.session = self._session_variance()

    @cached_property
    def speeds(self) -> SpeedChances:
        """The chances of being faster; every variant has a block or the screen by then."""
        seen = {name: known.blocks for name, known in self.evidence.items()}
        return SpeedChances(seen, self.session, self.design.blocks, 1 / self.design.repeats)

    def next_round(self) -> Allocation:
        if screening := self._screening():
            return self._affordable(screening, {})
        dropped = self._dropped()
        rest = sorted((name for name in self.others if name not in dropped), key=self.gain, reverse=True)
        if not rest:
            return self._finished(dropped, None, ())
        leader, unaffordable = rest[0], dict[Step, None]()
        for steps in self._proposals(leader, self._rivals(leader, rest[1:])):
            found = self._affordable(steps, dropped)
            if found.steps:
                return found.model_copy(update={"unaffordable": tuple(unaffordable)})
            unaffordable |= dict.fromkeys(steps)
        if not self.gains(leader):
            return self._finished(dropped | dict.fromkeys(rest, "no clear gain over BF16"), None, tuple(unaffordable))
        if not self.is_admissible(leader):
            return self._finished(dropped, None, tuple(unaffordable))
        slower = f"not faster than {leader}, which loses no accuracy"
        return self._finished(dropped | dict.fromkeys(rest[1:], slower), leader, tuple(unaffordable))

    def _proposals(self, leader: str, rivals: Sequence[str]) -> Iterator[list[Step]]:
        """Yield rounds, of which the first that can be afforded is run."""
        if blocks := self._blocks(leader, rivals):
            # What is cheaper than the blocks that it may save comes before them; BF16's items are needed in any case.
            for name, price in {leader: cost(blocks), **dict.fromkeys(rivals, self.design.block)}.items():
                saved = price * (self.design.blocks - self.evidence[name].full_blocks)
                items = self._items(name) if self.gains(name) else []
                if items and items[-1].minutes < saved:
                    yield items
                    break
            yield blocks
        if self.gains(leader) and (items := self._items(leader)):
            yield items

    def _rivals(self, leader: str, names: Sequence[str]) -> list[str]:
        """Return those that may be faster than the leader in the end."""
        chances = {name: self.speeds.chance(name, leader) for name in names}
        rivals, count = list(names), 0
        # S. Holm's correction: the level is divided by those that are left.
        while len(rivals) != count:
            count = len(rivals)
            rivals = [name for name in rivals if chances[name] > ALPHA / 2 / count]
        return rivals

    def _finished(self, dropped: dict[str, str], found: str | None, unaffordable: tuple[Step, ...]) -> Allocation:
        return Allocation(steps=(), dropped=dropped, answer=found, unaffordable=unaffordable)

    def gain(self, name: str) -> float:
        """Return the mean difference of the logarithms from BF16 over the blocks; the screen counts until then."""
        return self._difference(name)[0]

    def gains(self, name: str) -> bool:
        """Return True if its throughput is clearly above BF16's after all blocks, corrected for the variants."""
        change, variance = self._difference(name)
        return change > float(ndtri(1 - ALPHA / 2 / len(self.others))) * math.sqrt(variance)

    def is_admissible(self, name: str) -> bool:
        """Return True if all items of each task rule out a loss beyond its margin."""
        return all(
            (pairs := self.evidence[name].tasks.get(task)) is not None
            and pairs.n >= plan.items
            and tango(pairs.gained, pairs.lost, pairs.n, plan.margin) <= LEVEL
            for task, plan in self.design.tasks.items()
        )

    def _difference(self, name: str) -> tuple[float, float]:
        """Return the mean difference of the logarithms from BF16, and its variance."""
        numbers = self._numbers(name)
        ours, theirs = self.evidence[name].blocks, self.evidence[self.baseline].blocks
        change = math.fsum(ours[number].log_mean - theirs[number].log_mean for number in numbers) / len(numbers)
        noise = math.fsum(ours[number].variance + theirs[number].variance for number in numbers)
        return change, (2 * self.session / len(numbers)) + noise / len(numbers) ** 2

    def _numbers(self, name: str) -> list[int]:
        """Return the blocks that count: the screen only as long as there is no other."""
        numbers = sorted(self.evidence[name].blocks)
        return [number for number in numbers if number != SCREEN] or numbers

    def _session_variance(self) -> float:
        """Return the variance of a start's effect: the stated one, or that of the blocks if it is larger."""
        stated = math.log1p(self.design.session_percent / 100) ** 2
        squares, freedom, noise = 0.0, 0, []
        for name in self.others:
            numbers = [number for number in self._numbers(name) if number in self.evidence[self.baseline].blocks]
            if len(numbers) > 1:
                ours, theirs = self.evidence[name].blocks, self.evidence[self.baseline].blocks
                gaps = np.array([ours[number].log_mean - theirs[number].log_mean for number in numbers])
                squares += float(((gaps - gaps.mean()) ** 2).sum())
                freedom += len(gaps) - 1
                noise += [ours[number].variance + theirs[number].variance for number in numbers]
        if not freedom:
            return stated
        return max(stated, (squares / freedom - math.fsum(noise) / len(noise)) / 2)

    def _screening(self) -> list[Step]:
        steps = []
        for name, known in self.evidence.items():
            if known.kl is None and name != self.baseline:
                steps.append(Step(variant=name, kind="kl", minutes=self.design.kl))
            if not known.blocks:
                steps.append(Step(variant=name, kind="screen", minutes=self.design.screen))
        return steps

    def _dropped(self) -> dict[str, str]:
        reasons = {}
        for name in self.others:
            reason = self._too_far(name) or self._too_slow(name) or self._too_lossy(name)
            if reason:
                reasons[name] = reason
        return reasons

    def _too_far(self, name: str) -> str:
        kl = self.evidence[name].kl
        if kl is None or kl.low <= self.design.max_kl:
            return ""
        return f"KL from BF16 at least {kl.low:.2g} nats/token, more than {self.design.max_kl:g}"

    def _too_slow(self, name: str) -> str:
        if self.speeds.chance(name, self.baseline) > ALPHA / 2 / len(self.others):
            return ""
        count = max(self.evidence[name].full_blocks, 1)
        percent = signed_percent(math.expm1(self.gain(name)))
        return f"slower than BF16: {percent} in {count} block{'' if count == 1 else 's'}"

    def _too_lossy(self, name: str) -> str:
        for task, pairs in self.evidence[name].tasks.items():
            plan = self.design.tasks[task]
            if 0 < pairs.n < plan.items and chance_to_pass(pairs, plan) < ALPHA / 2 / len(self.design.tasks):
                return (
                    f"{task}: {pairs.gained} gained, {pairs.lost} lost of {pairs.n:,}; all {plan.items:,} items would "
                    f"not rule out a loss of {100 * plan.margin:g} points"
                )
        done = self._stage(name) == len(self.design.stages)
        return "all items leave a loss beyond the margin open" if done and not self.is_admissible(name) else ""

    def _blocks(self, leader: str, rivals: Sequence[str]) -> list[Step]:
        """Return a further block of those that may be the fastest; the leader itself has all of them in the end."""
        short = [name for name in (leader, *rivals) if self.evidence[name].full_blocks < self.design.blocks]
        if not short:
            return []
        return [Step(variant=name, kind="block", minutes=self.design.block) for name in (self.baseline, *short)]

    def _items(self, name: str) -> list[Step]:
        """Return the next stage of a variant's items, after all of BF16's, which whoever is the answer needs."""
        last, done = len(self.design.stages), self._stage(name)
        if done == last:
            return []
        stage = done + 1
        # A stage that costs less than another start of the server is asked along; what is unknown costs nothing yet.
        while stage < last and 0 < self._scoring(stage, stage + 1) < self.design.start:
            stage += 1
        # With a budget, what BF16's items cost is found before all of them are begun.
        is_known = self.design.eval_budget is None or self._scoring(0, last) > 0
        ends = {self.baseline: (self._stage(self.baseline), last if is_known else stage), name: (done, stage)}
        return [
            Step(variant=each, kind="items", stage=end, minutes=self.design.start + self._scoring(begin, end))
            for each, (begin, end) in ends.items()
            if begin < end
        ]

    def _scoring(self, begin: int, end: int) -> float:
        """Return the minutes of the items between two stages, without a start."""
        return math.fsum(
            plan.minutes * (self.design.items(task, end) - self.design.items(task, begin))
            for task, plan in self.design.tasks.items()
        )

    def _stage(self, name: str) -> int:
        """Return the number of finished stages of items."""
        known = self.evidence[name].tasks
        finished = [
            all(task in known and known[task].n >= self.design.items(task, stage) for task in self.design.tasks)
            for stage in range(1, len(self.design.stages) + 1)
        ]
        return sum(finished)

    def _affordable(self, steps: Sequence[Step], dropped: dict[str, str]) -> Allocation:
        """Return the round if the budgets allow all of it: half a block, or a variant without BF16, shows nothing."""
        kinds = {"screen": "bench", "block": "bench", "kl": "eval", "items": "eval"}
        budgets = {"bench": self.design.bench_budget, "eval": self.design.eval_budget}
        for stage, budget in budgets.items():
            used = math.fsum(minutes for kind, minutes in self.spent.items() if kinds[kind] == stage)
            if budget is not None and used + cost(s for s in steps if kinds[s.kind] == stage) > budget:
                return Allocation(steps=(), dropped=dropped, unaffordable=tuple(steps))
        return Allocation(steps=tuple(steps), dropped=dropped)


def chance_to_pass(pairs: Pairs, plan: TaskPlan) -> float:
    """Return the probability that all items rule out a loss beyond the margin, given those so far.

    The final test passes if D > -margin + z sqrt(V / N) + 1 / (2N), with the difference D of N items and the variance V
    of an item. With n items so far, the other N - n add a normal with the mean (N - n) E and the variance (N - n) V. V
    is the share of items that differ, and under the hypothesis of the test at least the margin; E is the difference so
    far, at most zero, with the variance V / n.
    """
    rest = plan.items - pairs.n
    share = max((pairs.gained + pairs.lost + 1) / (pairs.n + 2), plan.margin)
    limit = -plan.margin + float(ndtri(1 - LEVEL)) * math.sqrt(share / plan.items) + 0.5 / plan.items
    so_far = pairs.gained - pairs.lost
    if rest <= 0:
        return float(so_far >= limit * plan.items)
    total = so_far + rest * min(0.0, so_far / pairs.n)
    return float(ndtr((total - limit * plan.items) / math.sqrt(rest * share + rest**2 * share / pairs.n)))
