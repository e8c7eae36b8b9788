"""A range that no longer moves is called stable from the sample on where it stopped; one that moves late is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.calibrate.convergence import judge, stable_after
from pipeline.stages.calibrate.observers import checkpoints

AT = checkpoints(200)


@given(st.integers(1, 100_000))
def test_checkpoints_rise_from_one_to_all(samples: int) -> None:
    points = checkpoints(samples)
    assert points[0] == 1
    assert points[-1] == samples
    assert points == sorted(set(points))
    assert len(points) < 30


def curve(stops_at: int) -> list[float]:
    return [2.0 if number >= stops_at else 1.0 for number in AT]


def test_a_curve_is_stable_from_where_it_stopped() -> None:
    assert stable_after(curve(120), AT, 0.01) == 120
    assert stable_after([2.0] * len(AT), AT, 0.01) == 1
    assert stable_after(curve(180), AT, 0.01) is None


def test_movement_within_the_tolerance_is_stability() -> None:
    assert stable_after([1.995 if number < 180 else 2.0 for number in AT], AT, 0.01) == 1


def test_the_verdict_is_that_of_the_last_layer_to_settle() -> None:
    verdict = judge({"a": curve(32), "b": curve(120)}, AT, 0.01)
    assert verdict.stable_after == 120
    assert verdict.text == "stable to 1 % after 120 of 200 samples"


def test_a_layer_that_still_moves_is_named_with_how_much() -> None:
    verdict = judge({"a": curve(32), "layer 17": curve(200)}, AT, 0.01)
    assert verdict.stable_after is None
    assert verdict.moving == ("layer 17",)
    assert "layer 17 still moves (50.0 % in the last quarter of 200 samples): use more" in verdict.text


@pytest.mark.parametrize("samples", [1, 3])
def test_few_samples_allow_no_verdict(samples: int) -> None:
    points = checkpoints(samples)
    assert judge({"a": [1.0] * len(points)}, points, 0.01).text.endswith("too few to say whether ranges are stable")
