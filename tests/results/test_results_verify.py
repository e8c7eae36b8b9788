"""Errors of weights as multiples of their limits."""

import math

import pytest

from pipeline.results.verify import PartError, WeightError


def error(**changes: object) -> WeightError:
    return WeightError.model_validate({"module": "m", "error": 0.1, "allowed": 0.2, **changes})


@pytest.mark.parametrize(
    ("seen", "allowed", "excess"),
    [(0.1, 0.2, 0.5), (0.2, 0.2, 1.0), (0.0, 0.0, 0.0), (1e-9, 0.0, 1.0), (0.5, 0.0, 5e8), (math.nan, 0.2, math.inf)],
)
def test_an_error_counts_as_a_multiple_of_its_limit(seen: float, allowed: float, excess: float) -> None:
    assert PartError(place="row 1", error=seen, allowed=allowed).excess == pytest.approx(excess)
    assert error(error=seen, allowed=allowed).excess == pytest.approx(excess)
    assert error(factor_error=seen, allowed_factor_error=allowed).excess == pytest.approx(max(0.5, excess))


def test_what_an_earlier_release_did_not_store_is_no_error() -> None:
    old = error()
    assert (old.nearest, old.factor_error, old.allowed_factor_error, old.parts) == (None, 0.0, 0.0, ())
    assert old.excess == pytest.approx(0.5)


def test_the_worst_of_a_modules_errors_counts() -> None:
    parts = [{"place": "row 1", "error": 0.9, "allowed": 0.3}, {"place": "row 2", "error": 0.1, "allowed": 0.1}]
    assert error(parts=parts).excess == pytest.approx(3.0)
    assert error(parts=parts, error=0.8).excess == pytest.approx(4.0)
    assert error(parts=parts[1:], factor_error=0.3, allowed_factor_error=0.1).excess == pytest.approx(3.0)
