"""The scores of items in the form that a stored report has."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.results.item_scores import ItemScores

ITEMS = st.text(alphabet="abcdef", min_size=1, max_size=4)
BINARY = st.sampled_from([0.0, 1.0])
# Multiples of 1/64 are exact in float16.
GRADED = st.integers(0, 64).map(lambda value: value / 64)


@given(st.lists(st.tuples(ITEMS, BINARY)) | st.lists(st.tuples(ITEMS, GRADED)))
def test_scores_read_back_in_the_order_of_their_items(scores):
    stored = ItemScores.model_validate_json(ItemScores.of(scores).model_dump_json())
    assert stored.values().tolist() == [score for _, score in sorted(scores, key=lambda item: item[0])]


def test_the_order_of_the_file_does_not_matter_and_the_items_do():
    one, other = ItemScores.of([("b", 1.0), ("a", 0.0)]), ItemScores.of([("a", 0.0), ("b", 1.0)])
    assert one == other and one.values().tolist() == [0.0, 1.0]
    assert ItemScores.of([("a", 0.0), ("c", 1.0)]).items != one.items
    assert ItemScores.of([("a", 0.0), ("b", 1.0), ("b", 1.0)]).items != one.items


def test_all_of_mmlu_takes_less_than_three_kilobytes():
    stored = ItemScores.of([(f"{i:05}", float(i % 3 == 0)) for i in range(14_042)])
    assert stored.kind == "bits" and len(stored.model_dump_json()) < 2_500
    assert stored.values().sum() == len(range(0, 14_042, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 17}, "bytes are not the scores of 17 items"),
        ({"data": "///"}, "the scores are not base64"),
        ({"data": "ab cd"}, "the scores are not base64"),
        ({"kind": "float16"}, "2 bytes are not the scores of 12 items"),
        ({"kind": "float16", "n": 1, "data": "AHw="}, "a score is not finite"),
    ],
)
def test_spoiled_scores_are_refused(change, message):
    content = json.loads(ItemScores.of([(str(i), float(i % 2)) for i in range(12)]).model_dump_json())
    with pytest.raises(ValidationError, match=message):
        ItemScores.model_validate(content | change)


@pytest.mark.parametrize(("number", "size"), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_bits_fill_whole_bytes(number, size):
    stored = ItemScores.of([(f"{place:02}", 1.0) for place in range(number)])
    assert (stored.kind, stored.n, len(base64.b64decode(stored.data))) == ("bits", number, size)
    assert stored.values().tolist() == [1.0] * number
    for wrong in (size + 1, size - 1):
        if wrong >= 0:
            with pytest.raises(ValidationError, match=f"{wrong} bytes are not the scores of {number} items"):
                ItemScores(items="x", n=number, kind="bits", data=base64.b64encode(b"\xff" * wrong).decode())


def test_graded_scores_take_two_bytes_each():
    stored = ItemScores.of([("b", 0.5), ("a", 1.0), ("c", 0.0)])
    assert (stored.kind, base64.b64decode(stored.data)) == ("float16", b"\x00\x3c\x00\x38\x00\x00")
    assert stored.items == hashlib.sha256(b"a\nb\nc").hexdigest()[:32]
    with pytest.raises(ValidationError, match="5 bytes are not the scores of 3 items"):
        ItemScores(items="x", n=3, kind="float16", data=base64.b64encode(b"\x00" * 5).decode())
