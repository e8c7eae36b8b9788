"""A sketch counts every value at BF16 resolution, keeps exact extremes, and hides nothing that is not finite."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.calibrate.histograms import BINS, Sketch, codes, edges, magnitudes

FLOATS = st.floats(-6e4, 6e4, width=32)
ROWS = st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=6)


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_extremes_over_samples_are_extremes_over_all(samples: list[list[list[float]]]) -> None:
    sketch = Sketch()
    for sample in samples:
        sketch.update(torch.tensor(sample))
        sketch.commit()
    whole = torch.tensor([row for sample in samples for row in sample])
    assert sketch.channel_range[:, 0].tolist() == whole.amin(0).tolist()
    assert sketch.channel_range[:, 1].tolist() == whole.amax(0).tolist()
    assert sketch.samples == len(samples)
    assert sketch.extremes[..., 0].min() == whole.min()
    assert sketch.extremes[..., 1].max() == whole.max()


@given(ROWS)
def test_a_bf16_tensor_is_counted_exactly(rows: list[list[float]]) -> None:
    values = torch.tensor(rows).to(torch.bfloat16)
    sketch = Sketch()
    sketch.update(values)
    counted = torch.repeat_interleave(magnitudes(), sketch.histogram[0])
    seen = values.abs().double().flatten()
    exact = torch.where(seen < 2.0**-16, 0.0, seen)
    # 2^-16 itself shares the first bin with zero.
    exact = torch.where(exact == 2.0**-16, 0.0, exact)
    assert counted.tolist() == sorted(exact.tolist())


def test_bins_cover_what_is_rounded_into_them() -> None:
    values = torch.rand(10_000) * 100
    found, ends = codes(values).long(), edges()
    assert bool((values.double() >= ends[found]).all())
    assert bool((values.double() <= ends[found + 1]).all())
    assert len(ends) == BINS + 1


def test_what_is_beyond_the_bins_is_counted_at_their_ends_and_kept_as_an_extreme() -> None:
    sketch = Sketch()
    sketch.update(torch.tensor([[1e9, 1e-9]]))
    sketch.commit()
    assert int(sketch.histogram[0, -1]) == 1
    assert int(sketch.histogram[0, 0]) == 1
    assert float(sketch.extremes.max()) == 1e9


def test_updating_changes_no_activation() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(7, 8).to(dtype)
        before = values.clone()
        Sketch().update(values)
        assert torch.equal(values, before)


def test_order_of_samples_changes_neither_counts_nor_ranges() -> None:
    samples = [torch.randn(5, 8) for _ in range(6)]
    one, other = Sketch(), Sketch()
    for sketch, order in ((one, samples), (other, samples[::-1])):
        for sample in order:
            sketch.update(sample)
            sketch.commit()
    assert torch.equal(one.histogram, other.histogram)
    assert torch.equal(one.channel_range, other.channel_range)


@pytest.mark.parametrize("heads", [3, 8, 16])
def test_heads_have_ranges_and_counts_of_their_own(heads: int) -> None:
    """The bins of more than eight heads together do not fit into 16 bits."""
    values = torch.randn(9, heads, 4) * torch.logspace(0, 2, heads)[:, None]
    sketch = Sketch(groups=heads)
    sketch.update(values.flatten(1))
    sketch.commit()
    for head in range(heads):
        alone = Sketch()
        alone.update(values[:, head])
        alone.commit()
        assert torch.equal(sketch.histogram[head], alone.histogram[0])
        assert torch.equal(sketch.extremes[0, head], alone.extremes[0, 0])


def test_the_moving_average_moves_by_its_constant() -> None:
    sketch = Sketch(averaging_constant=0.25)
    for high in (4.0, 8.0):
        sketch.update(torch.tensor([[-1.0], [high]]))
        sketch.commit()
    assert sketch.channel_average.tolist() == [[-1.0, 5.0]]


def test_histograms_see_evenly_spaced_tokens_and_extremes_see_all() -> None:
    sketch = Sketch(histogram_tokens=4)
    values = torch.ones(10, 1)
    values[1] = 50.0
    sketch.update(values)
    sketch.commit()
    assert int(sketch.histogram.sum()) == 4
    assert float(sketch.extremes.max()) == 50.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    sketch = Sketch()
    sketch.update(torch.tensor([[1.0], [value]]))
    sketch.update(torch.tensor([[2.0]]))
    assert not bool(torch.isfinite(sketch.commit()).all())


def test_snapshots_are_the_counts_so_far() -> None:
    sketch = Sketch(snapshots_at=frozenset({2}))
    for _ in range(3):
        sketch.update(torch.ones(5, 2))
        sketch.commit()
    assert int(sketch.snapshots[2].sum()) == 20
    assert int(sketch.histogram.sum()) == 30


def test_no_place_in_a_text_is_counted_more_often_than_another() -> None:
    """The first token's values are the largest of all: counted in every sample, they would weigh four times."""
    sketch = Sketch(histogram_tokens=4)
    for _ in range(8):
        values = torch.ones(16, 1)
        values[0] = 1000.0
        sketch.update(values)
        sketch.commit()
    assert int(sketch.histogram.sum()) == 8 * 4
    assert int(sketch.histogram[0, codes(torch.tensor(1000.0)).item()]) == 2
