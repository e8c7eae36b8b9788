"""Journal of an evaluation's answers, from which an interrupted evaluation resumes.

A line is appended for each answered request, under the hash of the request. A request found there is not sent
again; a repeated request has as many lines. An incomplete last line is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.json_files import parse_json

FILE = "answers.jsonl"
# Version of the stored answers; a new one invalidates old lines.
FORMAT = 1


class Journal:
    """Answers of one evaluation; not stored without a file."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the existing lines; new ones are appended."""
        self._known: dict[str, deque[Any]] = defaultdict(deque)
        self._file = None
        self.recalled = 0
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                try:
                    key, answer = parse_json(line)
                except (ValueError, TypeError):
                    continue
                self._known[str(key)].append(answer)
        # Buffered by lines: what was written when a kill comes is with the operating system.
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if self._known:
            self._file.write("\n")

    def recall(self, body: Mapping[str, object]) -> tuple[str, Any]:
        """Return the key of a request, and a stored answer not recalled yet, or None."""
        key = hashlib.sha256(json.dumps([FORMAT, body], sort_keys=True).encode()).hexdigest()
        known = self._known.get(key)
        if not known:
            return key, None
        self.recalled += 1
        return key, known.popleft()

    def append(self, key: str, answer: Any) -> None:
        """Append an answer, which is plain JSON."""
        if self._file is not None:
            self._file.write(json.dumps([key, answer], ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
