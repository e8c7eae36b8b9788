"""Text made safe and short for a terminal, a document or a table, and names that share a reason."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def clean(value: Any, limit: int | None = None) -> str:
    """Remove control characters (terminals obey them) and direction overrides (they mislead readers).

    With a limit, return at most so many characters, without splitting a word.
    """
    kept = "".join(
        character
        for character in str(value)
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    if limit is None or len(kept) <= limit:
        return kept
    short = kept[: limit - 1]
    return f"{(short.rpartition(' ')[0] or short).rstrip(' .;:,')}…"


def in_markdown(text: str) -> str:
    """Escape text for Markdown and for the HTML that Markdown passes through."""
    plain = " ".join(clean(text).split())
    return MARKDOWN.sub(r"\\\1", plain).replace("\\<", "&lt;").replace("\\>", "&gt;")


def json_line(value: Any) -> str:
    """Return a value as one line of JSON, in which escapes stand for the characters that `clean` removes.

    Raises:
        ValueError: on a number that is not finite.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(character if clean(character) else json.dumps(character)[1:-1] for character in line)


def capitalized(text: str) -> str:
    """Return a text with its first letter in upper case, and the others as they are."""
    return f"{text[:1].upper()}{text[1:]}"


def signed_percent(share: float) -> str:
    """Format a share with its sign, in percent."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def first_line(text: str, limit: int = 140) -> str:
    """Return the first line with content, short enough for a table."""
    lines = [line.strip() for line in clean(text).splitlines() if line.strip()]
    return clean(lines[0] if lines else "no reason given", limit)


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names of each reason, from pairs of name and reason: a reason that several share is said once."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons:
        found.setdefault(reason, []).append(name)
    return found


def among(names: Sequence[str], everything: Collection[str]) -> str:
    """Name some of several variants, by the one that is not among them where that is shorter."""
    others = [name for name in everything if name not in names]
    if len(names) < 3 or len(others) > 1:
        return ", ".join(names)
    return f"all but {others[0]}" if others else f"all {len(names)} variants"
