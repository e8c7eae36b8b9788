"""Figures and texts from outside as the report writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.results import text
from pipeline.stages.report import number_format


@given(st.text())
def test_clean_text_has_nothing_that_a_terminal_obeys(value):
    assert not set(text.clean(value)) & {chr(i) for i in (*range(9), *range(11, 32), *range(127, 160))}
    assert len(text.clean(value, 10)) <= 10
    assert "\n" not in text.first_line(value)


@given(st.floats(-1e9, 1e9), st.integers(0, 4))
def test_figures_read_back(value, digits):
    shown = number_format.signed(value, digits)
    assert float(shown.replace(",", "").replace(number_format.MINUS, "-")) == pytest.approx(
        round(value, digits), abs=1e-9
    )
    assert shown[0] in "+" + number_format.MINUS or float(shown.replace(",", "")) == 0


def test_figures_have_about_four_digits():
    assert [number_format.decimals([v]) for v in (12345, 1234, 123.4, 12.3, 1.2, 0.01, 0)] == [0, 0, 1, 2, 3, 4, 1]
    assert number_format.number(-1234.56, 1) == "−1,234.6" and number_format.number(-0.0001, 2) == "0.00"
    assert number_format.size_unit([16_000_000_000]) == ("GB", 1e9) and number_format.size_unit([]) == ("kB", 1e3)
    assert [number_format.duration(s) for s in (3.21, 125, 7300)] == ["3.2 s", "2 min 5 s", "2 h 1 min"]
