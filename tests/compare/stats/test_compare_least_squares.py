"""The additive model on small designs whose estimates can be written down, and the search for unequal noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.stats.least_squares import AdditiveFit, Unit, of_unequal_noise


def fit(**rows: Sequence[float | None]) -> AdditiveFit:
    return AdditiveFit(
        [Unit(name, cell, y) for name, row in rows.items() for cell, y in enumerate(row) if y is not None]
    )


def test_two_variants_in_two_cells() -> None:
    """The one residual is a quarter of the interaction, 1 - 2 - 3 + 7 = 3, in each of four units."""
    found = fit(a=(1.0, 2.0), b=(3.0, 7.0))
    assert found.freedom == 1 and found.residual_square == pytest.approx(4 * 0.75**2)
    assert found.variance == pytest.approx(2.25)
    assert found.difference("b", "a") == pytest.approx(3.5) and found.difference("a", "b") == pytest.approx(-3.5)
    assert found.factor("a", "b") == pytest.approx(1.0)
    assert found.means() == pytest.approx({"a": 1.5, "b": 5.0})
    assert found.correlation(["b"], "a") == 0.5


def test_without_a_degree_of_freedom_the_variance_is_unknown() -> None:
    assert math.isnan(fit(a=(1.0,), b=(2.0,)).variance) and fit(a=(1.0,), b=(2.0,)).freedom == 0
    assert fit(a=(1.0,), b=(2.0,)).difference("b", "a") == pytest.approx(1.0)


def test_variances_of_unbalanced_designs() -> None:
    """One cell with one, two and four units of a variant: a variance of 1/n for each mean."""
    units = [Unit(name, 0, float(i)) for name, n in (("a", 1), ("b", 2), ("c", 4)) for i in range(n)]
    found = AdditiveFit(units)
    assert found.factor("b", "a") == pytest.approx(1 / 2 + 1)
    assert found.factor("c", "b") == pytest.approx(1 / 4 + 1 / 2)
    # The covariance is the control's variance.
    assert found.correlation(["b", "c"], "a") == pytest.approx(1 / math.sqrt(1.5 * 1.25))
    assert found.correlation(["a", "b"], "c") == pytest.approx(0.25 / math.sqrt(1.25 * 0.75))
    assert found.freedom == 7 - 3


def test_the_smallest_of_several_correlations_is_given() -> None:
    units = [Unit(name, 0, 0.0) for name, n in (("control", 2), ("a", 1), ("b", 1), ("c", 8)) for _ in range(n)]
    assert AdditiveFit(units).correlation(["a", "b", "c"], "control") == pytest.approx(0.5 / 1.5)


def test_means_do_not_hold_the_effects_of_cells() -> None:
    """The unit of `b` in the dear cell is missing: the additive model knows what it would have been."""
    found = fit(a=(1.0, 11.0), b=(2.0, None), c=(3.0, 13.0))
    assert found.difference("b", "a") == pytest.approx(1.0) and found.difference("c", "a") == pytest.approx(2.0)
    assert found.freedom == 1 and found.residual_square == pytest.approx(0.0, abs=1e-12)
    means = found.means()
    assert means["b"] - means["a"] == pytest.approx(1.0)
    # Cells are averaged as they occur: three cheap, two dear.
    assert means["a"] == pytest.approx(1 + 10 * 2 / 5)


def test_parts_of_a_fit() -> None:
    found = fit(a=(1.0, 2.0), b=(3.0, 7.0), c=(0.0, 5.0))
    assert found.without(["c"]).variants == found.only("a", "b").variants == ("a", "b")
    assert found.without(["c"]).residual_square == pytest.approx(2.25)


def test_connected_variants_share_cells_directly_or_by_others() -> None:
    found = fit(
        a=(1.0, None, None, None), b=(2.0, 3.0, None, None), c=(None, 4.0, None, None), d=(None, None, 1.0, 2.0)
    )
    assert found.connected("a", "c") and found.connected("a", "b", "c") and found.connected("d")
    assert not found.connected("a", "d") and not found.connected("a", "b", "d") and not found.connected("a", "x")
    assert found.difference("c", "a") == pytest.approx(2.0)


def test_the_noisiest_have_the_largest_residuals() -> None:
    found = fit(a=(0.0, 0.0, 0.0), b=(5.0, -5.0, 0.0), c=(0.1, 0.0, -0.1), d=(-30.0, 30.0, 0.0))
    assert found.noisiest(1) == ("d",) and found.noisiest(2)[0] == "d"


def noisy(scale: float, number: int = 3) -> AdditiveFit:
    quiet = ((0.1, -0.1, 0.0, 0.05), (-0.1, 0.0, 0.1, -0.05), (0.0, 0.1, -0.1, 0.0), (0.05, -0.1, 0.0, 0.1))
    loud = (scale, -scale, scale, -scale)
    return fit(**dict(zip("abcdefgh", quiet[: number - 1], strict=False)), z=loud)


@pytest.mark.parametrize("number", [3, 4, 5])
def test_one_noisy_variant_of_few_is_found(number: int) -> None:
    assert of_unequal_noise(noisy(0.05, number)) == ()
    assert of_unequal_noise(noisy(30.0, number)) == ("z",)


def test_two_variants_cannot_be_told_apart_by_their_noise() -> None:
    assert of_unequal_noise(noisy(30.0, 2)) == ()


def test_noise_is_unequal_by_the_f_test_with_bonferronis_correction() -> None:
    """Of three variants one may be left out: p of what it adds to the others' residuals, three times."""
    for scale in np.linspace(0.1, 1.0, 19):
        found = noisy(float(scale))
        rest = found.without(["z"])
        added = (found.residual_square - rest.residual_square) / (found.freedom - rest.freedom)
        p = 3 * stats.f.sf(added / rest.variance, found.freedom - rest.freedom, rest.freedom)
        assert found.noisiest(1) == ("z",) or p > 0.05
        assert bool(of_unequal_noise(found)) == (p < 0.05)
    assert of_unequal_noise(noisy(0.1)) == () and of_unequal_noise(noisy(1.0)) == ("z",)


def test_noise_beside_none_is_unequal() -> None:
    still = dict.fromkeys("abcd", (1.0, 2.0, 4.0))
    assert of_unequal_noise(fit(**still, z=(3.0, 1.0, 5.0))) == ("z",)
    assert of_unequal_noise(fit(**still)) == ()


def test_the_cells_need_not_be_of_one_scale() -> None:
    """Values far from zero keep their differences."""
    found = fit(a=(1e6 + 1, 1e6 + 2), b=(1e6 + 3, 1e6 + 7))
    assert found.difference("b", "a") == pytest.approx(3.5, abs=1e-6) and found.variance == pytest.approx(2.25)
    assert found.means()["a"] == pytest.approx(1e6 + 1.5)
