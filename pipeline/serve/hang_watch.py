"""Watch for a server that computes nothing while requests wait for it."""

from __future__ import annotations

import time

from pipeline.errors import ServerError
from pipeline.serve import counters

# An engine hangs that computes no token in this time while requests wait; the watch looks so often.
HANG_S = 300.0
LOOK_S = 15.0
# What grows while an engine computes.
PROGRESS = ("prompt_tokens", "generation_tokens", "inference_s")


class HangWatch:
    """Watch over one server from now on; `look` is called again and again."""

    def __init__(self, url: str, key_variable: str | None = None) -> None:
        """Watch the server at `url`, which asks for the key in an environment variable, or for none."""
        self.url = url
        self.key_variable = key_variable
        self._counted: dict[str, float] = {}
        self._progress: tuple[int | None, dict[str, float]] = (None, {})
        self._since = self._looked = time.monotonic()

    def look(self, answered: int | None = None) -> None:
        """Compare the server's counters with the last ones, every `LOOK_S` seconds.

        Args:
            answered: number of answers that have come; None if that is not known here.

        Raises:
            ServerError: if nothing has been computed or answered for `HANG_S` seconds, and requests wait.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        reading = counters.read(self.url, self.key_variable)
        values = {} if reading is None else reading.values
        # A server that does not answer has made no progress that is known.
        self._counted |= {name: values[name] for name in PROGRESS if name in values}
        is_idle = not any(values.get(name, 1.0) for name in ("running", "waiting"))
        progress = (answered, dict(self._counted))
        if is_idle or progress != self._progress or progress == (None, {}):
            self._progress, self._since = progress, now
        elif now - self._since > HANG_S:
            raise ServerError(f"The server hangs: it computed nothing for {HANG_S:.0f} s, and requests wait.")
