"""The highest good rate is found by bisection, with a bounded number of probes."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.bench.goodput import bisect


@given(st.floats(0.01, 1000), st.floats(0.01, 1000), st.integers(1, 12))
def test_the_bracket_holds_the_highest_good_rate(capacity: float, saturation: float, probes: int) -> None:
    tried = []

    def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = bisect(meets, saturation, probes)
    assert 1 <= len(tried) <= probes
    assert all(rate > 0 for rate in tried) and len(set(tried)) == len(tried)
    if found.met is not None:
        assert found.met <= capacity
    if found.unmet is not None:
        assert found.unmet > capacity
        width = found.unmet - (found.met or 0.0)
        assert width <= saturation * 1.01 / 2 ** (len(tried) - 1) + 0.01 * found.unmet
    else:
        # Even what the server can do at all is good: there is nothing to search.
        assert len(tried) == 1


def test_no_probe_no_claim() -> None:
    found = bisect(lambda rate: True, 5.0, 0)
    assert (found.met, found.unmet) == (None, None)
