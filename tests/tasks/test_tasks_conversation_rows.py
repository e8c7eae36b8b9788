"""A row in any known form is one conversation; what templates cannot take is repaired, or left out, and named."""

from typing import Any

import pytest

from pipeline.tasks.conversation_rows import (
    BROKEN_CHARACTERS,
    EMPTY_TURNS,
    LEADING_REPLIES,
    MERGED_TURNS,
    NO_CONVERSATION,
    NOT_ALTERNATING,
    UNKNOWN_PARTS,
    UNKNOWN_ROLES,
    Reading,
    read_row,
)

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
Turn = tuple[str, object]


def openai(*turns: Turn) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def said(reading: Reading) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in reading.conversation]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": TURNS},
        {"messages": TURNS, "prompt": "Hi"},
        openai(("user", [{"type": "text", "text": "Hi"}]), ("assistant", ["Hello"])),
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": TURNS[:1], "completion": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"messages": None, "text": None, "prompt": "Hi", "response": "Hello"},
    ],
    ids=["sharegpt", "roles", "openai", "parts", "prompt-response", "completion", "trl", "mixed", "alpaca", "table"],
)
def test_every_form_is_the_same_conversation(row: dict[str, Any]) -> None:
    assert read_row(row) == Reading(TURNS)


def test_alpacas_input_follows_its_instruction() -> None:
    row = {"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}
    assert said(read_row(row)) == [("user", "Translate.\n\nBonjour"), ("assistant", "Hello")]


def test_columns_are_mapped_to_what_they_mean() -> None:
    row = {"ask": "Hi", "answer": "Hello", "id": 7}
    assert read_row(row, {"prompt": "ask", "response": "answer"}).conversation == TURNS
    assert read_row({"body": "Hi"}, {"text": "body"}).conversation == TURNS[:1]


SYSTEM = ("system", "Be brief.")
USER, REPLY = ("user", "Hi"), ("assistant", "Hello")


@pytest.mark.parametrize(
    ("turns", "kept", "repair"),
    [
        ([REPLY, USER, REPLY], [USER, REPLY], LEADING_REPLIES),
        ([SYSTEM, REPLY, USER, REPLY], [SYSTEM, USER, REPLY], LEADING_REPLIES),
        ([USER, ("user", "there"), REPLY], [("user", "Hi\n\nthere"), REPLY], MERGED_TURNS),
        ([SYSTEM, ("developer", "No."), USER], [("system", "Be brief.\n\nNo."), USER], MERGED_TURNS),
        ([USER, ("tool", "{}"), REPLY], [USER, REPLY], UNKNOWN_ROLES),
        ([USER, ("assistant", None), ("user", " ")], [USER], EMPTY_TURNS),
        ([("user", ["Hi", {"type": "image_url"}]), REPLY], [USER, REPLY], UNKNOWN_PARTS),
        ([("user", "H\ud83di"), REPLY], [("user", "H\ufffdi"), REPLY], BROKEN_CHARACTERS),
    ],
    ids=["reply first", "reply after system", "two of a role", "two system", "tool", "empty", "image", "surrogate"],
)
def test_what_templates_cannot_take_is_repaired_and_named(
    turns: list[Turn], kept: list[tuple[str, str]], repair: str
) -> None:
    reading = read_row(openai(*turns))
    assert (said(reading), reading.repairs, reading.left_out) == (kept, {repair}, "")


def test_a_tool_call_between_two_replies_joins_them_and_both_repairs_are_named() -> None:
    reading = read_row(openai(USER, REPLY, ("tool", "{}"), ("assistant", "Bye")))
    assert said(reading) == [USER, ("assistant", "Hello\n\nBye")]
    assert reading.repairs == {UNKNOWN_ROLES, MERGED_TURNS}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (openai(USER, REPLY, SYSTEM, USER), NOT_ALTERNATING),
        (openai(SYSTEM, REPLY), NO_CONVERSATION),
        ({"response": "Hello"}, NO_CONVERSATION),
        ({"conversations": []}, NO_CONVERSATION),
        ({"id": 1}, NO_CONVERSATION),
        ("Hi", NO_CONVERSATION),
    ],
)
def test_a_row_that_is_left_out_says_why(row: Any, reason: str) -> None:
    reading = read_row(row)
    assert (reading.conversation, reading.left_out) == ([], reason)
