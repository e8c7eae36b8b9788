"""Values of a question's options, read from one generated token."""

import pytest

from pipeline.stages.eval.options import of_labels


def choice(written: str, reported: dict[str, float]) -> dict:
    return {"index": 0, "text": "", "logprobs": {"tokens": [written], "top_logprobs": [reported]}}


REPORTED = {"token_id:5": -0.5, "token_id:7": -2.0, "token_id:9": -0.5, "token_id:11": -4.0}


def test_each_label_has_its_value_and_the_largest_is_greedy() -> None:
    assert of_labels([7, 5], choice("token_id:5", REPORTED)) == [(-2.0, False), (-0.5, True)]


def test_a_tie_with_the_token_written_is_greedy() -> None:
    assert of_labels([9, 5, 11], choice("token_id:5", REPORTED)) == [(-0.5, True), (-0.5, True), (-4.0, False)]


@pytest.mark.parametrize("labels", [[6], [5, 6], [6, 5], [5, 7, 9, 11, 6]])
def test_a_label_that_is_not_reported_leaves_all_unknown(labels: list[int]) -> None:
    assert of_labels(labels, choice("token_id:5", REPORTED)) is None
