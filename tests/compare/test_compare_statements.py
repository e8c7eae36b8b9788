"""Numbers and names in words."""

from __future__ import annotations

import pytest

from pipeline.compare.statements import (
    Claim,
    Sentence,
    count,
    in_points,
    listing,
    percent_range,
    plain,
    points_range,
    signed,
    within_text,
)
from pipeline.compare.stats.accuracy import counted_difference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (12.34, 1, "+12.3"),
        (-12.36, 1, "−12.4"),
        (0.04, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-0.06, 1, "−0.1"),
        (0.0, 2, "0.00"),
        (1.525, 2, "+1.52"),
        (2.0, 0, "+2"),
    ],
)
def test_a_difference_has_its_sign_and_a_rounded_zero_none(value: float, digits: int, text: str) -> None:
    assert signed(value, digits) == text and signed(value, 1) == signed(value)


def test_shares_are_points() -> None:
    assert (in_points(0.0152), in_points(-0.5), in_points(0.0001)) == ("+1.5", "−50.0", "0.0")
    change = counted_difference(0, 20, 400).model_copy(update={"interval": Interval(low=-0.07, high=0.0234)})
    assert points_range(change) == "−7.0 to +2.3"
    assert percent_range(Change(percent=1.0, interval=Interval(low=-1.25, high=33.0))) == "−1.2 to +33.0"


def test_names_are_joined_and_counts_pluralised() -> None:
    assert [listing(names) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert listing(iter(["x", "y"])) == "x and y"
    assert [count(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
    assert [within_text(title) for title in ("Mean TTFT", "x", "")] == ["mean TTFT", "x", ""]


def test_a_plain_sentence_claims_nothing() -> None:
    assert plain("scope", "So it is.") == Sentence(kind="scope", text="So it is.", claims=())
    claim = Claim(variant="a", against="bf16", column="size", interval=Interval(low=1, high=2))
    assert Sentence(kind="size", text="", claims=(claim,)).claims == (claim,)
