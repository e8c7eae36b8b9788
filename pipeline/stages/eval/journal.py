"""The answers of an evaluation as they come, so that an interrupted one goes on where it stopped.

A line is appended for each answered request, under the hash of what was asked. A request that stands there is not sent
again; one that is asked several times has as many lines. A line that a kill cut short is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "answers.jsonl"
# Of what is kept of an answer; another one makes old lines strangers.
FORMAT = 1


class Journal:
    """One evaluation's answers; without a file, nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        """Reads what is there, and goes on behind it."""
        self._known: dict[str, deque[Any]] = defaultdict(deque)
        self._file = None
        self.recalled = 0
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                try:
                    key, answer = json.loads(line)
                except ValueError:
                    continue
                self._known[str(key)].append(answer)
        # Buffered by lines: what was written when a kill comes is with the operating system.
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if self._known:
            self._file.write("\n")

    def recall(self, body: Mapping[str, object]) -> tuple[str, Any]:
        """The key of a request, and its answer where there is one that was not recalled yet; else None."""
        key = hashlib.sha256(json.dumps([FORMAT, body], sort_keys=True).encode()).hexdigest()
        known = self._known.get(key)
        if not known:
            return key, None
        self.recalled += 1
        return key, known.popleft()

    def append(self, key: str, answer: Any) -> None:
        """Keeps an answer, which is plain JSON."""
        if self._file is not None:
            self._file.write(json.dumps([key, answer], ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
