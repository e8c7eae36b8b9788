"""Signals that end a run, sent to the process alone or to its whole group (Ctrl-C, `timeout`, Slurm, systemd).

The first one raises `Interrupted` in the main thread, so that drafts are removed and servers stopped. What fails from
then on follows from it, since others of the group were ended too: `check` keeps it from being taken for a failure of
its own. Later signals do nothing. If the process has not ended after `GRACE_S` seconds, in a long computation or
waiting for another process, a thread ends it together with its descendants.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 6.0
# A signal to a group reaches its processes one after another: a server's end may be seen before the own signal.
SPREAD_S = 0.2
NUDGE_S = 0.1


class Interrupted(KeyboardInterrupt):
    """A signal that ends the run has come."""

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code by the convention of shells: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class _State:
    received: int | None = None
    is_over = False
    pipe: tuple[int, int] | None = None


def install() -> None:
    """Handle the signals in this process, once; a signal that is ignored, as with `nohup`, stays so."""
    if _State.pipe is not None or threading.current_thread() is not threading.main_thread():
        return
    _State.pipe = os.pipe()
    os.set_blocking(_State.pipe[1], False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    # The number arrives here even while the main thread computes and cannot run a handler.
    signal.set_wakeup_fd(_State.pipe[1], warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(_State.pipe[0],), daemon=True).start()
    os.register_at_fork(after_in_child=_uninstall)


def check() -> None:
    """Raise `Interrupted` if a signal has come, for code that something else may have kept from noticing.

    Raises:
        Interrupted: if the run is to end.
    """
    if _State.received is not None:
        raise Interrupted(_State.received) from None


def check_after_failure() -> None:
    """Tell a failure that a signal to the whole group causes from one of its own.

    Raises:
        Interrupted: if the run is to end.
    """
    check()
    time.sleep(SPREAD_S)
    check()


def received() -> int | None:
    """Return the number of the signal that has come; None without one."""
    return _State.received


def finish() -> None:
    """Let signals interrupt nothing from now on; a process that does not end is still ended after a while."""
    _State.is_over = True


def leave(code: int) -> NoReturn:
    """End this process after a signal, with what was registered for its end, but without taking it apart.

    Python frees a model's modules one by one at its end, which may take longer than there is, and runs no thread then.
    """
    finish()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # The terminal may be gone.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _handle(number: int, _: FrameType | None) -> None:
    if _State.received is None and not _State.is_over:
        _State.received = number
        raise Interrupted(number)


def _uninstall() -> None:
    """Give a forked child the default handlers: a signal to it does not concern this process."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _watch(pipe: int) -> None:
    numbers = {int(number) for number in SIGNALS}
    while (number := os.read(pipe, 1)[0]) not in numbers:
        continue
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline:
        time.sleep(NUDGE_S)
        if _State.received is None and not _State.is_over:
            # It came just before the main thread began to wait, which only a further signal ends.
            signal.pthread_kill(threading.main_thread().ident or 0, number)
    _end(number)


def _end(number: int) -> NoReturn:
    """End this process and its descendants at once; the next run removes the drafts."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"ended by force; a rerun continues\n")
    os._exit(128 + number)
