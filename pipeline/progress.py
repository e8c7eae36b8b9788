"""Progress on the terminal: one line per step, a live status, failures at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from pipeline import interruption


class Progress:
    """Terminal output of one run, on standard error; standard output is reserved for results."""

    def __init__(self, console: Console | None = None) -> None:
        """Write to `console`, by default standard error."""
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._status: Status | None = None
        self._step = ""
        self._printed = set[str]()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=True)

    def say_once(self, text: str) -> None:
        """Print a line unless it has been printed before."""
        if text not in self._printed:
            self._printed.add(text)
            self.say(text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step while it runs, then its duration."""
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
        """Show the current activity of the step on a transient line.

        Raises:
            Interrupted: if the run is to end, and what the step calls kept it from noticing.
        """
        interruption.check()
        if self._status is not None:
            self._status.update(f"{self._step}: {text}")
