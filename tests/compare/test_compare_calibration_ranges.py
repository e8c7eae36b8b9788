"""How ranges settle over all sites, and how they grow with depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.calibration_ranges import ranges_by_layer, settling

POSITIVE = st.floats(1e-6, 1e6)


def test_experts_of_a_layer_share_a_place_and_what_has_no_layer_has_none():
    found = ranges_by_layer(
        [("down", 1, 2.0), ("down", 0, 5.0), ("down", 1, 9.0), ("head", None, 99.0), ("K", 0, 0.25)]
    )
    assert [(item.kind, item.layer, item.largest) for item in found] == [
        ("down", 0, 5.0),
        ("down", 1, 9.0),
        ("K", 0, 0.25),
    ]


def test_settling_is_the_median_and_the_band_of_the_sites():
    curves = [[index / 100, 1.0] for index in range(101)]
    first, last = settling((1, 2), [*curves, [0.0, 0.0], []])
    assert (first.median, first.low, first.high, first.sites) == pytest.approx((0.5, 0.05, 0.95, 101))
    assert (last.median, last.low, last.high) == (1.0, 1.0, 1.0)
    assert settling((1, 2), [[0.0, 0.0]]) == ()


@given(st.lists(st.lists(POSITIVE, min_size=3, max_size=3), min_size=1, max_size=8), POSITIVE)
def test_the_scale_of_a_site_does_not_matter(curves, factor):
    found = settling((1, 2, 3), curves)
    scaled = settling((1, 2, 3), [[factor * value for value in curve] for curve in curves])
    for one, other in zip(found, scaled, strict=True):
        assert one.low <= one.median <= one.high
        assert one.median == pytest.approx(other.median, rel=1e-6)
    assert found[-1].median == 1.0
