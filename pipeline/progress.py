"""Progress on the terminal: one line per step, a live status, failures at the end."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.errors import MarkupError
from rich.markup import escape
from rich.measure import Measurement
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from pipeline import interruption
from pipeline.errors import NotApplicable

# Sequences that a terminal obeys, and characters that it or a reader is misled by: controls and directions of writing.
OBEYED = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


class Inert:
    """A renderable whose text, wherever it comes from, has nothing that a terminal obeys; styles are our own."""

    def __init__(self, shown: RenderableType) -> None:
        """Show `shown`."""
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield its segments."""
        for segment in console.render(self.shown, options):
            yield segment if segment.control else Segment(OBEYED.sub("", segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return its width."""
        return Measurement.get(console, options, self.shown)


class Progress:
    """Terminal output of one run, on standard error; standard output is reserved for results."""

    def __init__(self, console: Console | None = None, lane: str = "") -> None:
        """Write to `console`, by default standard error.

        Args:
            console: of rich.
            lane: name of one process of several that write there, which stands before its lines; it has no live status.
        """
        self.console = console or Console(file=sys.stderr, highlight=False, force_terminal=False if lane else None)
        self._lane = f"  {lane}:" if lane else ""
        self._status: Status | None = None
        self._step = ""
        self._printed = set[str]()

    def say(self, text: str) -> None:
        """Print a line of rich's markup, in which callers escape text from outside; no markup is shown as it is."""
        try:
            line = self.console.render_str(text)
        except MarkupError:
            line = Text(text)
        self.console.print(Inert(Text.assemble(self._lane, line) if self._lane else line), soft_wrap=True)

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
            with self.console.status(Inert(Text(f"{name} ..."))) as self._status:
                yield
            mark = "[green]done[/]"
        except NotApplicable:
            mark = "[yellow]n/a[/]"
            raise
        finally:
            self._status = None
            self.say(f"  {escape(f'{name:<32}')} {mark} {time.monotonic() - started:7.1f} s")

    def detail(self, text: str) -> None:
        """Show the current activity of the step on a transient line.

        Raises:
            Interrupted: if the run is to end, and what the step calls kept it from noticing.
        """
        interruption.check()
        if self._status is not None:
            self._status.update(Inert(Text(f"{self._step}: {text}")))
