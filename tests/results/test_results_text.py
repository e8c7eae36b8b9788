"""Text from elsewhere, cut for a table."""

import pytest

from pipeline.results.text import among, by_reason, capitalized, clean, first_line, signed_percent


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("one two three", None, "one two three"),
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two…"),
        ("one two three", 8, "one…"),
        ("one, two three", 6, "one…"),
        ("abcdefgh", 5, "abcd…"),
        ("tab\tand\nline\x00\x1b[31m\u202e\ue000", None, "tab\tand\nline[31m"),
        (1.5, None, "1.5"),
        ("", 5, ""),
    ],
)
def test_text_is_cut_between_words(text: object, limit: int | None, expected: str) -> None:
    assert clean(text, limit) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.034, "+3.4 %"), (-0.034, "−3.4 %"), (0.0, "+0.0 %"), (2.5, "+250.0 %"), (0.00049, "+0.0 %")],
)
def test_a_share_has_a_sign_and_one_digit(share: float, expected: str) -> None:
    assert signed_percent(share) == expected


def test_the_first_line_with_content_is_taken() -> None:
    assert first_line("\n  \n  failed: x  \nand more") == "failed: x"
    assert first_line(" \n\t\n") == first_line("") == "no reason given"
    assert first_line("word " * 40) == "word " * 26 + "word…"
    assert first_line("word " * 40, limit=9) == "word…"


def test_only_the_first_letter_is_capitalized() -> None:
    assert capitalized("throughput per GPU") == "Throughput per GPU"
    assert capitalized("") == ""


def test_a_reason_that_several_share_is_said_once() -> None:
    reasons = {"a": "too large", "b": "no kernel", "c": "too large"}
    assert by_reason(reasons.items()) == {"too large": ["a", "c"], "no kernel": ["b"]}


@pytest.mark.parametrize(
    ("names", "said"),
    [("a", "a"), ("ab", "a, b"), ("abc", "a, b, c"), ("abcd", "all but e"), ("abcde", "all 5 variants")],
)
def test_most_of_several_are_named_by_what_they_are_not(names: str, said: str) -> None:
    assert among(list(names), "abcde") == said
    # Of two, both are named.
    assert among(["a", "b"], "ab") == "a, b"
