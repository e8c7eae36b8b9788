"""Guards that need several variants: the GPU's clock against BF16's, and the first repeat against the others.

Each returns a `Guard` from recorded conditions or figures, as the guards that a benchmark ends with.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.special import stdtr

from pipeline.results.bench import Conditions, Guard, LoadResult
from pipeline.results.metrics import THROUGHPUT
from pipeline.results.records import Record, Speed
from pipeline.results.text import signed_percent

# Relative difference of the median clock under load, which bounds the part of a change in speed that it explains.
CLOCK_DRIFT = 0.05
# A difference that changes no decision, as `report.tolerance_percent`.
SMALL = 0.02
ALPHA = 0.05
# Repeats whose tokens differ by less are taken for the same work; `benchmarks.DRIFT` is as much.
SAME_WORK = 0.02
# With as many loads the prompts of a load's first repeat are chance, although all variants share them.
MANY_LOADS = 3
POWER_CAP = "software power cap"
# Share of the samples from which on a load counts as held back by the power limit.
MOSTLY = 0.5


def clocks(load: LoadResult, reference: LoadResult | None) -> Guard | None:
    """Return the guard on the GPU's clock under load against the baseline's; None without a GPU.

    A GPU at its power limit lowers its clock, by how much depends on the kernels and on the chip. Where both variants
    were on the same chips and the limit held back the slower clock, the clock is what the kernels of each format leave,
    and so a part of its speed.
    """
    if reference is None or not any(each.gpu for each in load.conditions):
        return None
    ours, theirs = _median_clock(load.conditions), _median_clock(reference.conditions)
    if ours is None or theirs is None:
        lowest = ", ".join(filter(None, (_lowest(load.conditions, "lowest"), _lowest(reference.conditions, "BF16's"))))
        text = f"the clock under load is unknown{f' ({lowest})' if lowest else ''}"
        return Guard(name="GPU clock against BF16", passed=None, text=text, load=load.name)
    drift = ours / theirs - 1
    text = f"{ours:.0f} MHz under load, BF16 {theirs:.0f} MHz ({signed_percent(drift)})"
    capped = [_capped(each) for each in (load.conditions, reference.conditions)]
    if any(share is not None for share in capped):
        shown = " and ".join("unknown" if share is None else f"{100 * share:.0f} %" for share in capped)
        text += f"; held back by the power limit in {shown} of the samples"
    on_the_same = bool(load.gpus) and load.gpus == reference.gpus
    is_of_the_format = on_the_same and (capped[0 if drift < 0 else 1] or 0) >= MOSTLY
    if is_of_the_format:
        text += "; on the same GPU, so the clock is what each format's power leaves"
    passed = is_of_the_format or abs(drift) <= CLOCK_DRIFT
    return Guard(name="GPU clock against BF16", passed=passed, text=text, load=load.name)


def _median_clock(conditions: Sequence[Conditions]) -> float | None:
    found = [each.gpu_load.sm_mhz for each in conditions if each.gpu_load and each.gpu_load.sm_mhz is not None]
    return statistics.median(found) if found else None


def _lowest(conditions: Sequence[Conditions], whose: str) -> str | None:
    found = [each.gpu["sm_mhz"].min for each in conditions if each.gpu and "sm_mhz" in each.gpu]
    return f"{whose} {min(found):.0f} MHz" if found else None


def _capped(conditions: Sequence[Conditions]) -> float | None:
    """Return the share of samples in which the power limit kept the clock low, over all repeats."""
    found = [each.gpu_load for each in conditions if each.gpu_load and each.gpu_load.slowed is not None]
    total = sum(each.samples for each in found)
    return sum((each.slowed or {}).get(POWER_CAP, 0.0) * each.samples for each in found) / total if total else None


@dataclass(frozen=True)
class _First:
    """Log ratio of a first repeat to the mean of those after it on the same server.

    `unit` is the load and block, whose prompts all variants share; `work` is the relative range of the repeats' tokens.
    """

    unit: tuple[str, int]
    ratio: float
    work: float


def first_repeats(records: Sequence[Record]) -> tuple[Guard, ...]:
    """Return, for each protocol, the guard on the first repeat against the others, over all variants and loads.

    Three repeats of one variant show no trend below some 50 %; all variants together do. Since all are sent the same
    prompts, a slow first repeat may be its prompts' doing: it counts over three or more loads, which have prompts of
    their own (a t test over loads), or where all repeats are the same work (a t test over variants); else the guard is
    undecided. A first repeat that is slow everywhere biases figures, not their ratios to BF16.
    """
    speeds = [speed for record in records for speed in record.benchmarks]
    guards = (
        _first_guard(protocol, [each for speed in speeds if speed.protocol == protocol for each in _firsts(speed)])
        for protocol in dict.fromkeys(speed.protocol for speed in speeds)
    )
    return tuple(guard for guard in guards if guard is not None)


def _firsts(speed: Speed) -> Iterator[_First]:
    """Yield the first repeat of each load and block that has others."""
    for load in speed.loads:
        values = load.metrics[THROUGHPUT.name].values if THROUGHPUT.name in load.metrics else ()
        blocks = load.blocks if len(load.blocks) == len(values) else (0,) * len(values)
        for block in dict.fromkeys(blocks):
            places = [place for place, its in enumerate(blocks) if its == block]
            logs = [math.log(values[place]) for place in places if values[place] > 0]
            if len(places) > 1 and len(logs) == len(places):
                ratio = logs[0] - statistics.mean(logs[1:])
                yield _First((load.name, block), ratio, _work(load, places))


def _work(load: LoadResult, places: Sequence[int]) -> float:
    totals = [
        sum(tokens[place] for tokens in (load.input_tokens, load.output_tokens) if place < len(tokens))
        for place in places
    ]
    return max(totals) / min(totals) - 1 if min(totals) else math.inf


def _first_guard(protocol: str, firsts: Sequence[_First]) -> Guard | None:
    units = {each.unit: [other.ratio for other in firsts if other.unit == each.unit] for each in firsts}
    over_loads = len(units) >= MANY_LOADS
    ratios = [statistics.mean(found) for found in units.values()] if over_loads else [each.ratio for each in firsts]
    if len(ratios) < 2:
        return None
    mean, error = statistics.mean(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios))
    p_value = 2 * float(stdtr(len(ratios) - 1, -abs(mean) / error)) if error else float(mean == 0)
    change = math.expm1(mean)
    lower = sum(each.ratio < 0 for each in firsts)
    text = (
        f"{signed_percent(change)} throughput against the repeats after it; slower in {lower} of {len(firsts)} series "
        f"of {protocol} (p = {p_value:.2g} over {'loads' if over_loads else 'variants'})"
    )
    is_slow = p_value <= ALPHA and abs(change) >= SMALL
    if is_slow and not over_loads and max(each.work for each in firsts) > SAME_WORK:
        return Guard(name="first repeat", passed=None, text=f"{text}; its prompts are other work, which may be why")
    return Guard(name="first repeat", passed=not is_slow, text=text)
