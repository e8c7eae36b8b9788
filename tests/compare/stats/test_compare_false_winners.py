"""Benchmarks of simulated servers through the comparison itself: winners among equals, and gains that are shown.

A server's figure is exp(seed + start + repeat), with the standard deviations of each. Identical variants may have a
winner in 5 % of runs, by the standard error of the simulation a little more.
"""

import math

import numpy as np
import pytest

from pipeline.compare.comparison import compare
from pipeline.compare.decide.differences import gains, speed_between
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult, Metric
from pipeline.results.metrics import THROUGHPUT
from pipeline.results.records import Record, Speed
from tools.power_table import DESIGNS, PAGE, Noise, page, power

RUNS = 300
# Five percent and two and a half standard errors of 300 runs.
MOST = 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / RUNS)


def variant(name: str, logs: np.ndarray) -> Record:
    """Return a variant of these figures, shape (blocks, repeats)."""
    blocks, repeats = logs.shape
    metric = Metric(unit=THROUGHPUT.unit, values=tuple(np.exp(logs).ravel().tolist()))
    load = LoadResult(
        name="rate inf",
        num_prompts=100,
        request_rate="inf",
        max_concurrency=None,
        seeds=tuple(range(repeats)) * blocks,
        blocks=tuple(np.repeat(np.arange(blocks), repeats).tolist()),
        asked=100,
        completed=100,
        failed=0,
        metrics={THROUGHPUT.name: metric},
    )
    speed = Speed(
        machine="here",
        asked=100,
        completed=100,
        failed=0,
        protocol="study",
        headline=load.name,
        loads=(load,),
        metrics=load.metrics,
    )
    return Record(
        name=name,
        label=name,
        family="baseline" if name == "bf16" else "other",
        is_baseline=name == "bf16",
        emulated=(),
        size=Missing(reason="not weighed"),
        speed=speed,
        tasks=Missing(reason="not scored"),
    )


def run(dice, k, repeats, blocks, within, start, seed=0.0, gain=0.0, tolerance=2.0):
    """Return the comparison of one simulated benchmark; v1 has the gain."""
    logs = dice.normal(0, within, (k, blocks, repeats)) + dice.normal(0, start, (k, blocks, 1)) + 7
    logs += dice.normal(0, seed, (1, 1, repeats)) + dice.normal(0, start, (1, blocks, 1))
    logs[1] += math.log1p(gain)
    names = ["bf16", *(f"v{index}" for index in range(1, k))]
    return compare([variant(n, each) for n, each in zip(names, logs, strict=True)], [], tolerance_percent=tolerance)


def winners(table, unqualified=True):
    """Return the variants with a claimed gain; those whose claim has no qualification."""
    found = [row for row in table.rows if not row.is_baseline and gains(row)]
    return [row for row in found if not unqualified or not row.speed[THROUGHPUT.name].change.qualification]


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("within", [0.01, 0.06])
@pytest.mark.parametrize(("k", "repeats"), [(7, 3), (7, 5), (19, 3), (19, 5)])
def test_identical_variants_have_no_winner_in_two_blocks(k, repeats, within, start):
    dice = np.random.default_rng(1)
    found = sum(bool(winners(run(dice, k, repeats, 2, within, start))) for _ in range(RUNS)) / RUNS
    print(f"two blocks, {k} variants, {repeats} repeats, CV {within}, starts {start}: {found:.3f}")
    assert found <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(("k", "repeats"), [(7, 3), (7, 5), (19, 3), (19, 5)])
@pytest.mark.parametrize(("within", "start"), [(0.01, 0.0), (0.01, 0.01), (0.06, 0.01), (0.01, 0.03)])
def test_identical_variants_have_no_unqualified_winner_in_one_block(k, repeats, within, start):
    """Starts that differ by less than the tolerance make no winner; above it every one of them is qualified."""
    dice = np.random.default_rng(2)
    tables = [run(dice, k, repeats, 1, within, start) for _ in range(RUNS)]
    assert not any(winners(table) for table in tables)
    named = sum(bool(winners(table, unqualified=False)) for table in tables) / RUNS
    print(f"one block, {k} variants, {repeats} repeats, CV {within}, starts {start}: {named:.3f}")
    assert named <= MOST or start > 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeats", "within", "seed", "least"),
    [(3, 0.06, 0.0, 0.40), (5, 0.06, 0.0, 0.65), (3, 0.01, 0.10, 0.99), (5, 0.01, 0.10, 0.99)],
)
def test_a_gain_of_ten_percent_of_one_named_pair_is_found(repeats, within, seed, least):
    """Before corrections and tolerance, without an effect of the start; and no more than 5 % where nothing differs."""
    dice = np.random.default_rng(3)

    def found(gain):
        tables = [run(dice, 7, repeats, 1, within, 0.0, seed, gain, tolerance=0.0) for _ in range(2 * RUNS)]
        return sum(speed_between(table, THROUGHPUT.name, "v1", "bf16").is_clear for table in tables) / len(tables)

    power, size = found(0.10), found(0.0)
    print(f"{repeats} repeats, CV {within}, seeds {seed}: power {power:.3f}, size {size:.3f}")
    # Two standard errors of the simulation.
    assert power >= least - 2 * math.sqrt(least * (1 - least) / (2 * RUNS)) and size <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "noise", "gain"),
    [
        (DESIGNS[0], Noise(0.01, 0.01), 0.05),
        (DESIGNS[1], Noise(0.06, 0.01), 0.20),
        (DESIGNS[3], Noise(0.01, 0.03), 0.10),
    ],
)
def test_the_power_of_the_documented_table_is_that_of_the_comparison(design, noise, gain):
    dice = np.random.default_rng(4)
    tables = [run(dice, 8, design.repeats, design.blocks, *noise, seed=0.05, gain=gain) for _ in range(RUNS)]
    shown = sum(table.rows[1].speed[THROUGHPUT.name].change.is_clear for table in tables) / RUNS
    print(f"{design}, {noise}, gain {gain}: {shown:.3f} for {power(design, noise, 8, gain):.3f}")
    # Three standard errors, and the check that pooling is fair, which the table leaves out.
    assert shown == pytest.approx(power(design, noise, 8, gain), abs=3 * 0.5 / math.sqrt(RUNS) + 0.02)


@pytest.mark.slow
def test_the_documented_table_is_current():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
