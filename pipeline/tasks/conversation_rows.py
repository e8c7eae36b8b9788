"""A row of a data set as a conversation that chat templates accept.

| row | read as |
|---|---|
| `conversations` or `messages` | a list of turns: `from` and `value` (ShareGPT), or `role` and `content` (OpenAI) |
| `prompt`, `response` or `completion` | a user turn and its reply; either may be a list of turns (TRL) |
| `instruction`, `input`, `output` | a user turn of the first two, and its reply (Alpaca) |
| `text` | a user turn |

Templates take turns of user and assistant in alternation, the user's first, and a system turn at most at the front. So
replies before the first question are left out, and turns of one role in a row are joined, as FastChat does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Conversation = list[dict[str, str]]
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TURNS = ("conversations", "messages")
QUESTIONS = ("prompt", "instruction", "text")
ANSWERS = ("response", "completion", "output")
COLUMNS = (*TURNS, *QUESTIONS, *ANSWERS)
# Reasons to leave a row out.
NO_CONVERSATION, NOT_ALTERNATING = "no_conversation", "not_alternating"
# Repairs of a row.
LEADING_REPLIES, MERGED_TURNS = "leading_replies", "merged_turns"
EMPTY_TURNS, UNKNOWN_ROLES, UNKNOWN_PARTS = "empty_turns", "unknown_roles", "unknown_parts"
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Reading:
    """A row as it was read.

    Attributes:
        conversation: turns of `role` and `content`; empty if the row is left out.
        repairs: names of the repairs that it took.
        left_out: the reason to leave the row out; empty if there is none.
    """

    conversation: Conversation
    repairs: frozenset[str] = frozenset()
    left_out: str = ""


def read_row(row: Any, columns: Mapping[str, str] | None = None) -> Reading:
    """Return a row as a conversation: a system turn or none, then user and assistant in alternation.

    Args:
        row: a row as read from the file.
        columns: names of the row's columns by meaning.
    """
    if not isinstance(row, dict):
        return Reading([], left_out=NO_CONVERSATION)
    if columns:
        row = {meaning: row.get(name) for meaning, name in columns.items()}
    repairs: set[str] = set()
    turns = list(_known(_turns_of(row), repairs))
    first = next((place for place, (role, _) in enumerate(turns) if role == "user"), None)
    if first is None:
        return Reading([], frozenset(repairs), NO_CONVERSATION)
    leading = [turn for turn in turns[:first] if turn[0] == "system"]
    if len(leading) < first:
        repairs.add(LEADING_REPLIES)
    merged = _merged([*leading, *turns[first:]])
    if len(merged) < len(leading) + len(turns) - first:
        repairs.add(MERGED_TURNS)
    if any(turn["role"] == "system" for turn in merged[1:]):
        return Reading([], frozenset(repairs), NOT_ALTERNATING)
    return Reading(merged, frozenset(repairs))


def _turns_of(row: Mapping[str, Any]) -> list[tuple[object, object]]:
    """Return role and content of each turn, as they stand in the row."""
    listed = _first(row, TURNS)
    if listed is not None:
        return _listed(listed, "")
    asked = _first(row, QUESTIONS)
    if asked is not None and asked is row.get("instruction") and row.get("input"):
        asked = f"{asked}{SEPARATOR}{row['input']}"
    return _listed(asked, "user") + _listed(_first(row, ANSWERS), "assistant")


def _first(row: Mapping[str, Any], names: Iterable[str]) -> object:
    """Return the first of these columns that has a value; a table's rows have the columns of all its rows."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _listed(value: object, role: str) -> list[tuple[object, object]]:
    """Return a list of turns, or a text as the one turn of `role`."""
    if isinstance(value, str):
        return [(role, value)]
    turns = [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
    return [(_first(turn, ("from", "role")), _first(turn, ("value", "content"))) for turn in turns]


def _known(turns: Iterable[tuple[object, object]], repairs: set[str]) -> Iterator[tuple[str, str]]:
    """Return the turns of known roles that have a text."""
    for name, content in turns:
        role = ROLES.get(str(name).lower())
        if role is None:
            repairs.add(UNKNOWN_ROLES)
            continue
        # JSON may hold halves of surrogate pairs, which no tokenizer takes and no file holds.
        text = _text(content, repairs).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if text.strip():
            yield role, text
        else:
            repairs.add(EMPTY_TURNS)


def _text(content: object, repairs: set[str]) -> str:
    """Return a turn's text: the content itself, or that of its text parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    known = [text for text in texts if isinstance(text, str)]
    if len(known) < len(parts):
        repairs.add(UNKNOWN_PARTS)
    return "\n".join(known)


def _merged(turns: Iterable[tuple[str, str]]) -> Conversation:
    """Return the turns, those of one role in a row as one."""
    merged: Conversation = []
    for role, text in turns:
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += SEPARATOR + text
        else:
            merged.append({"role": role, "content": text})
    return merged
