"""What the user sees while the work goes on: one line per step, a live status, failures at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Progress:
    """The terminal of one run; writes to standard error, so that standard output stays a result."""

    def __init__(self, console: Console | None = None) -> None:
        """Writes to `console`, by default standard error."""
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._status: Status | None = None
        self._step = ""
        self._said = set[str]()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, soft_wrap=True)

    def say_once(self, text: str) -> None:
        """Prints a line that holds for many steps, at the first of them."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Shows a step while it runs, and how long it took."""
        started = time.monotonic()
        self._step = name
        mark = "[red]x[/]"
        try:
            with self.console.status(f"{name} ...") as self._status:
                yield
            mark = "[green]done[/]"
        finally:
            self._status = None
            self.say(f"  {name:<32} {mark} {time.monotonic() - started:7.1f} s")

    def detail(self, text: str) -> None:
        """Says what the current step is doing; a transient line."""
        if self._status is not None:
            self._status.update(f"{self._step}: {text}")
