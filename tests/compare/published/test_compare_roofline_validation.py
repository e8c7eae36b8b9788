"""Published figures against the roofline: predictions, bounds and errors, on a table of round figures."""

from __future__ import annotations

import math
import statistics

import pytest

from pipeline.compare.published.roofline_validation import ALL, RooflineCheck, check
from pipeline.compare.published.tables import PublishedRow, SpeedTable
from pipeline.compare.roofline.batching import RooflineLoad
from pipeline.compare.roofline.device import Device, Footprint
from pipeline.compare.roofline.model import Entry, roofline
from pipeline.results.base import Missing
from pipeline.results.metrics import HEADLINE
from pipeline.stages.report.collect.published import published_tables

THROUGHPUT, TTFT, TPOT = (metric.name for metric in HEADLINE)
DEVICE = Device(name="d", memory_mib=80_000, bandwidth_gb_s=1000, tflops={"bf16": 200.0, "fp8": 400.0}, source="")
# 1e9 products of weights and 1e8 of the output layer a token, in BF16 2 bytes each.
BF16 = Footprint(
    weight_bytes=2.4e9,
    step_bytes=2.2e9,
    kv_bytes_per_token=1e5,
    products=1e9,
    head_products=1e8,
    attention_products=1e5,
    activations="bf16",
)
FP8 = BF16.model_copy(update={"step_bytes": 1.2e9, "activations": "fp8"})
LOAD = RooflineLoad(requests=10, mean_input=1000, mean_output=100, spread="equal", source="a test")


def table(**rows: tuple[float, float, float]) -> SpeedTable:
    source = next(each for each in published_tables() if each.kind == "speed")
    figures = {name: dict(zip((THROUGHPUT, TTFT, TPOT), row, strict=True)) for name, row in rows.items()}
    made = [PublishedRow(label=name.upper(), variants=(name,), figures=each) for name, each in figures.items()]
    return source.model_copy(update={"rows": tuple(made)})


def checked(**rows: tuple[float, float, float]) -> RooflineCheck:
    footprints = {"bf16": BF16, "fp8": FP8, "gone": Missing(reason="no shape"), "int8": FP8}
    return check([(table(**rows), DEVICE)], footprints, LOAD, 0.9, ["an assumption"])


ROWS = {"bf16": (1000.0, 500.0, 40.0), "fp8": (1300.0, 450.0, 50.0)}


def test_bounds_are_those_of_the_load() -> None:
    """Prompts of 10,000 tokens at 1e14 products a second; a token alone reads 2.2 or 1.2 GB at 1 TB/s."""
    cells = {(cell.label, cell.metric): cell for cell in checked(**ROWS).cells}
    assert cells["BF16", TPOT].bound == pytest.approx(2.2) and cells["FP8", TPOT].bound == pytest.approx(1.2)
    pairs = 10 * 1000 * 1001 / 2
    for label, rate in (("BF16", 1e14), ("FP8", 2e14)):
        prompts = 10_000 * 1e9 / rate + pairs * 1e5 / 1e14
        # The mean of one to ten prompts, one after another.
        assert cells[label, TTFT].bound == pytest.approx(1000 * prompts * 5.5 / 10)
        everything = 11_000 * 1e9 / rate + 1000 * 1e8 / 1e14 + pairs * 1e5 / 1e14
        assert cells[label, THROUGHPUT].bound == pytest.approx(11_000 / everything)


@pytest.mark.parametrize(("factor", "beyond"), [(0.99, [False, True, True]), (1.01, [True, False, False])])
def test_a_figure_better_than_its_bound_is_marked(factor: float, beyond: list[bool]) -> None:
    bounds = [cell.bound for cell in checked(**ROWS).cells if cell.label == "FP8"]
    found = checked(bf16=ROWS["bf16"], fp8=tuple(factor * bound for bound in bounds))
    assert [cell.beyond_bound for cell in found.cells if cell.label == "FP8"] == beyond


def test_gains_are_against_bf16_and_positive_where_better() -> None:
    cells = {(cell.label, cell.metric): cell for cell in checked(**ROWS).cells}
    assert [cells["FP8", name].published_gain for name in (THROUGHPUT, TTFT, TPOT)] == pytest.approx([30, 10, -25])
    assert all(
        cells["BF16", name].published_gain is cells["BF16", name].predicted_gain is None for name in (TTFT, TPOT)
    )
    entries = [Entry(name=name, label=name, footprint=each) for name, each in (("bf16", BF16), ("fp8", FP8))]
    reference, best = (row.best for row in roofline(DEVICE, entries, LOAD, 0.9, 1).rows)
    for name, field, better in (
        (THROUGHPUT, "throughput_tok_s", 1),
        (TTFT, "mean_ttft_ms", -1),
        (TPOT, "mean_tpot_ms", -1),
    ):
        ours, theirs = getattr(best, field), getattr(reference, field)
        assert cells["FP8", name].predicted == ours and cells["FP8", name].published == ROWS["fp8"][HEADLINES[name]]
        assert cells["FP8", name].predicted_gain == pytest.approx(better * 100 * (ours / theirs - 1))


HEADLINES = {THROUGHPUT: 0, TTFT: 1, TPOT: 2}


def test_the_error_is_that_of_all_gains_and_of_each_metric() -> None:
    found = checked(**ROWS, int8=(900.0, 480.0, 20.0))
    gains = [(c.predicted_gain, c.published_gain, c) for c in found.cells if c.published_gain is not None]
    errors = {error.metric: error for error in found.errors}
    assert list(errors) == [ALL, THROUGHPUT, TTFT, TPOT] and errors[ALL].cells == 6 and errors[TTFT].cells == 2
    whole = errors[ALL]
    assert whole.same_sign == sum(ours * theirs > 0 for ours, theirs, _ in gains) == 4
    assert whole.too_high == sum(ours > theirs for ours, theirs, _ in gains)
    assert whole.bias == pytest.approx(math.fsum(ours - theirs for ours, theirs, _ in gains) / 6)
    apart = [abs(ours - theirs) for ours, theirs, _ in gains]
    assert whole.median_error == pytest.approx(statistics.median(apart))
    assert whole.no_gain_error == pytest.approx(statistics.median([30, 10, 25, 10, 4, 50]))
    assert whole.largest_error == pytest.approx(max(apart))
    worst = gains[apart.index(max(apart))][2]
    assert whole.largest.startswith(f"{worst.label} on {worst.table}, ")
    # Both predictions of a metric are the same: no ranks, and two gains of a table are too few.
    assert errors[TTFT].rank_correlation is None and whole.rank_within is None


def test_no_gain_has_no_sign() -> None:
    found = checked(bf16=ROWS["bf16"], fp8=(1000.0, 499.9, 40.0))
    assert {error.metric: error.same_sign for error in found.errors} == {ALL: 1, THROUGHPUT: 0, TTFT: 1, TPOT: 0}


def test_ranks_within_tables_are_of_three_gains_or_more() -> None:
    light = BF16.model_copy(update={"step_bytes": 0.6e9})
    footprints = {"bf16": BF16, "fp8": FP8, "w4a16": light, "fp4": BF16.model_copy(update={"step_bytes": 0.9e9})}
    found = check(
        [(table(**ROWS, w4a16=(1500.0, 400.0, 10.0), fp4=(1200.0, 420.0, 20.0)), DEVICE)], footprints, LOAD, 0.9, ()
    )
    (tpot,) = [error for error in found.errors if error.metric == TPOT]
    # By time per token the least bytes are the fastest, then 0.9, then 1.2: as published.
    assert tpot.rank_within == tpot.rank_correlation == pytest.approx(1.0)


def test_a_variant_without_footprint_has_neither_bound_nor_prediction() -> None:
    found = checked(**ROWS, gone=(900.0, 480.0, 20.0))
    for cell in (cell for cell in found.cells if cell.label == "GONE"):
        assert cell.predicted == cell.bound == Missing(reason="no shape")
        assert cell.predicted_gain is None and cell.published_gain is not None and not cell.beyond_bound
    assert found.errors[0].cells == 3 and found.assumptions == ("an assumption",)
    alone = checked(bf16=ROWS["bf16"])
    assert alone.errors == () and len(alone.cells) == 3
