"""The order of measurements: blocks of starts in one process, and the same blocks divided among lanes.

A block has one start of each variant's server, in random order, and belongs to one lane: all variants of a block are
measured on the same GPUs, and those of another block may be measured at the same time on others. Scores do not depend
on the GPU, and are divided among the lanes with the fewest blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from pipeline.config import Stage
from pipeline.feasibility import OFFLINE
from pipeline.job import Job

SERVED = tuple(stage for stage in Stage if stage not in OFFLINE)
Step = tuple[Job, Stage]


class Start(NamedTuple):
    """One start of a variant's server in a block: its job under each protocol that has so many blocks."""

    block: int
    jobs: tuple[Job, ...]

    @property
    def variant(self) -> str:
        """Name of the variant."""
        return str(self.jobs[0].variant)

    def steps(self, stages: Sequence[Stage]) -> list[Step]:
        """Return each stage under each protocol."""
        return [(job, stage) for stage in stages for job in self.jobs]


class Unit(NamedTuple):
    """Work of one lane with one server: the steps of one start, in order."""

    start: Start
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> list[Step]:
        """The steps, in order."""
        return self.start.steps(self.stages)

    def waits_for(self, other: Unit) -> bool:
        """Return whether another unit makes the benchmark that the loads of this one derive from."""
        if other is self or other.start.block or not {Stage.BENCH} <= set(self.stages) & set(other.stages):
            return False
        ladders = (job.reference for job in self.start.jobs if job.settings.bench.ladder is not None)
        return other.start.variant in {str(job.variant) for job in ladders if job is not None}


def starts(jobs: Sequence[Job]) -> Iterator[Start]:
    """Yield the starts of all variants, block by block."""
    by_variant: dict[str, list[Job]] = {}
    for job in jobs:
        by_variant.setdefault(str(job.variant), []).append(job)
    seed, number = jobs[0].settings.bench.seed, max(len(job.blocks) for job in jobs)
    for block in range(number):
        variants = list(by_variant.values())
        Random(f"{seed} {block}").shuffle(variants)
        # BF16 opens the first block, since others are compared with its answers, and closes the last: its starts
        # span the whole run, and a steady drift of the machine cancels in its mean.
        closes = 0 < block == number - 1
        variants.sort(key=lambda each: each[0].settings.is_baseline is closes)
        for each in variants:
            # One protocol may have fewer blocks than another.
            if there := tuple(job.blocks[block] for job in each if block < len(job.blocks)):
                yield Start(block, there)


def in_order(jobs: Sequence[Job]) -> Iterator[Step]:
    """Yield the offline stages of all variants, then block by block each variant's served stages together."""
    yield from ((job, stage) for stage in OFFLINE for job in jobs)
    for start in starts(jobs):
        yield from start.steps(SERVED if start.block == 0 else (Stage.BENCH,))


def queues(jobs: Sequence[Job], lanes: int) -> list[list[Unit]]:
    """Return what each of so many lanes does: whole blocks, and the scores of some variants.

    The gate comes before either, and is made by the lane that is there first.
    """
    found: list[list[Unit]] = [[] for _ in range(lanes)]
    all_starts = list(starts(jobs))
    blocks = 1 + max(start.block for start in all_starts)
    taken = [len(range(lane, blocks, lanes)) for lane in range(lanes)]
    free = [lane for lane in range(lanes) if taken[lane] == min(taken)]
    firsts = {start.variant: start for start in all_starts if start.block == 0}
    scoring = {variant: free[index % len(free)] for index, variant in enumerate(firsts)}
    for start in all_starts:
        lane = start.block % lanes
        # The first block of a lane is the one of its number.
        scores = scoring[start.variant] == lane == start.block
        found[lane].append(Unit(start, (Stage.VERIFY, Stage.BENCH, *([Stage.EVAL] if scores else []))))
    for variant, lane in scoring.items():
        if not taken[lane]:
            found[lane].append(Unit(firsts[variant], (Stage.VERIFY, Stage.EVAL)))
    return found
