"""A notice for the end by SIGKILL, as the kernel sends it where memory is short, and after which a run says nothing.

A shell waits for the end of this process and prints the line that the step in progress left with it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from pipeline.artifacts.shortages import LESS_MEMORY

WAIT = r"""while IFS= read -r line; do last=$line; done; [ -z "$last" ] || printf '%s\n' "$last" >&2"""


@contextmanager
def during(name: str, stage: str) -> Iterator[None]:
    """Have a line printed if this process is killed within the block.

    Args:
        name: display name of the artifact in the making.
        stage: name of its stage.
    """
    way_out = f"If memory ran out: {LESS_MEMORY[stage]} " if stage in LESS_MEMORY else ""
    _leave(f"{name}: the run was killed (SIGKILL). {way_out}Finished artifacts are kept, and a rerun continues.")
    try:
        yield
    finally:
        _leave("")


def _leave(line: str) -> None:
    # Without the shell, or after its end, there is only no notice.
    with suppress(OSError):
        stdin = _shell().stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()


@cache
def _shell() -> subprocess.Popen[bytes]:
    # In a session of its own: a signal to the group is not to end it before this process.
    return subprocess.Popen(
        ["/bin/sh", "-c", WAIT], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
