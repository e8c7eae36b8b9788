"""Values of a question's options, read from one generated token."""

import json
from array import array

import pytest

from pipeline.stages.eval.options import Option, is_choice, of_labels


def choice(written: str, reported: dict[str, float]) -> dict:
    return {"index": 0, "text": "", "logprobs": {"tokens": [written], "top_logprobs": [reported]}}


# As a server sends it: equal figures are not one object.
REPORTED = json.loads('{"token_id:5": -0.5, "token_id:7": -2.0, "token_id:9": -0.5, "token_id:11": -4.0}')


def test_each_label_has_its_value_and_the_largest_is_greedy() -> None:
    assert of_labels([7, 5], choice("token_id:5", REPORTED)) == [(-2.0, False), (-0.5, True)]


def test_a_tie_with_the_token_written_is_greedy() -> None:
    assert of_labels([9, 5, 11], choice("token_id:5", REPORTED)) == [(-0.5, True), (-0.5, True), (-4.0, False)]


@pytest.mark.parametrize("labels", [[6], [5, 6], [6, 5], [5, 7, 9, 11, 6]])
def test_a_label_that_is_not_reported_leaves_all_unknown(labels: list[int]) -> None:
    assert of_labels(labels, choice("token_id:5", REPORTED)) is None


def group(*continuations: list[int], context: tuple[int, ...] = (1, 2), **others: tuple[int, ...]) -> list[Option]:
    """Options of one question; `others` are contexts of options by their place, as `c1`."""
    contexts = [others.get(f"c{place}", context) for place in range(len(continuations))]
    pairs = zip(contexts, continuations, strict=True)
    return [Option(place, "q", array("i", own), array("i", rest)) for place, (own, rest) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("options", "suffices"),
    [
        (group([5], [6], [7], [8]), True),
        (group([5]), True),
        # One shared token before the last takes two requests, of fewer than three options.
        (group([9, 5], [9, 6], [9, 7]), True),
        (group([9, 5], [9, 6]), False),
        (group([9, 9, 5], [9, 9, 6], [9, 9, 7]), False),
        (group([9, 9, 5], [9, 9, 6], [9, 9, 7], [9, 9, 8]), True),
        (group([9, 5], [8, 6], [9, 7]), False),
        (group([5], [9, 6], [7]), False),
        (group([9, 5], [9, 6], [9]), False),
        (group([5], [6], c1=(1, 3)), False),
        (group([5], [6], context=()), False),
        (group([], []), False),
        (group(*([label] for label in range(128))), True),
        (group(*([label] for label in range(129))), False),
        (group(*([label] for label in range(200))), False),
    ],
)
def test_one_token_requests_suffice_for_options_that_differ_in_their_last_token(
    options: list[Option], suffices: bool
) -> None:
    assert is_choice(options) is suffices
