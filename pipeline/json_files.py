"""JSON from files that others wrote: read, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

FETCH_AGAIN = "Fetch that file again."


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: if it is none; nesting too deep for the interpreter counts as such, and text that is not UTF-8.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json_object(path: Path, kind: type[InputError] = InputError, remedy: str = FETCH_AGAIN) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        kind: class of the error.
        remedy: what can be done about a file that holds none.

    Raises:
        InputError: of class `kind`, if the file cannot be read or holds no object.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror}.", remedy) from None
    except ValueError as error:
        raise kind(f"{path} is not JSON ({error}).", remedy) from None
    if not isinstance(content, dict):
        raise kind(f"{path} holds no JSON object but a {type(content).__name__}.", remedy)
    return content
