"""Names of models, variants and tasks as names of files, folders and repositories."""

from __future__ import annotations

import re

# Bytes of a name: file systems take 255, and some callers add a date or an ending.
LONGEST = 120


def file_name(text: str) -> str:
    """Return a name of any letters as one that file systems and shells take as it is: not empty, hidden or too long.

    Two names may become one, so what must differ has a key beside it.
    """
    name = re.sub(r"[^\w.+@=-]+", "-", text).encode()[:LONGEST].decode(errors="ignore")
    return name.strip("-.") or "_"
