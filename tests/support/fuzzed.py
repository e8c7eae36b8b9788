"""Documents for readers to fail on: JSON of any shape, and valid documents with values and bytes replaced."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Values that a check of the type alone lets through, or that no check expects.
ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "\0",
        "\ud800",
        "../../etc/passwd",
        "/",
        [],
    ]
)
VALUES = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
# Texts that are no JSON, or of a kind that parsers give in to.
BROKEN = st.sampled_from(
    [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"nul"]
)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value within a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [at, *(place for name, value in inner for place in places(value, (*at, name)))]


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Draw the document with one to three values replaced or removed."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(result)))
        if not path:
            return draw(VALUES)
        holder = result
        for name in path[:-1]:
            holder = holder[name]
        if draw(st.booleans()) and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(VALUES)
    return result


def json_files(document: Any) -> st.SearchStrategy[bytes]:
    """Return files like that of the document: with values replaced, cut, with bytes replaced, or broken."""
    whole = changed(document).map(lambda value: json.dumps(value).encode())
    return whole | damaged(json.dumps(document).encode()) | BROKEN


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw bytes with some replaced, or cut."""
    result = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        if result:
            result[draw(st.integers(0, len(result) - 1))] = draw(st.integers(0, 255))
    return bytes(result[: draw(st.integers(0, len(result)))]) if draw(st.booleans()) else bytes(result)
