"""Supervision of one sandboxed program: wait for its verdict or the first limit, then kill its processes."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MIB = 2**20
MEMORY_BYTES = 1024 * MIB
OUTPUT_BYTES = MIB
PROCESSES = 32
FILES = 4096
# Wall time stops a program that sleeps. It exceeds CPU time, because a busy machine must not fail a program.
WALL_PER_CPU = 3.0
START_TIMEOUT_S = 60.0
TICK_S = 0.05
GONE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """Result of a program."""

    passed: bool
    detail: str


class Supervisor:
    """Supervisor of one started program: awaits its verdict, then kills its remaining processes."""

    def __init__(
        self, process: subprocess.Popen[bytes], verdict: IO[bytes], secret: bytes, *, isolated: bool = True
    ) -> None:
        """Supervise `process`, whose `_runner` reports on `verdict`, authenticated by `secret`.

        Args:
            process: the outermost process of the program.
            verdict: where the report is read.
            secret: that the report begins with.
            isolated: whether it has a /tmp of its own, whose files count, and an outermost process that is not its own.
        """
        self.isolated = isolated
        self.process = process
        self.verdict = verdict
        self.secret = secret
        self.report = b""
        self.output = 0
        self.tail = b""

    def outcome(self, timeout_s: float) -> Outcome:
        """Wait for the verdict or the first limit."""
        try:
            stopped = self._follow(timeout_s)
        finally:
            self._end()
        return self._judge(stopped)

    def _follow(self, timeout_s: float) -> str | None:
        """Read the program's output until its verdict or exit; return the limit it exceeded, if any."""
        deadline = time.monotonic() + START_TIMEOUT_S
        started = False
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.verdict, selectors.EVENT_READ)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            next_tick = time.monotonic() + TICK_S
            while True:
                # Asked before looking for output: what it wrote last must not be missed.
                has_ended = self.process.poll() is not None
                ready = selector.select(0.0 if has_ended else max(0.0, next_tick - time.monotonic()))
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self.verdict:
                        self.report = (self.report + chunk)[:4096]
                    else:
                        self.output += len(chunk)
                        self.tail = (self.tail + chunk)[-500:]
                now = time.monotonic()
                if self.report and not started:
                    started, deadline = True, now + WALL_PER_CPU * timeout_s
                if self.report.endswith(b"\n"):
                    return None
                if self.verdict not in _registered(selector):
                    # No process is left that could report; the outermost one exits with the program's code.
                    with suppress(subprocess.TimeoutExpired):
                        self.process.wait(GONE_TIMEOUT_S)
                    return None
                if self.output > OUTPUT_BYTES:
                    return f"wrote more than {OUTPUT_BYTES // MIB} MiB"
                if now > deadline:
                    return f"timed out: {WALL_PER_CPU * timeout_s:g} s of wall time" if started else "did not start"
                if has_ended and not ready:
                    return None
                if now >= next_tick:
                    next_tick = now + TICK_S
                    if exceeded := self._exceeded(started):
                        return exceeded

    def _exceeded(self, started: bool) -> str | None:
        """Return the limit that the program's processes exceed together, if any."""
        found = list(descendants(self.process.pid))
        if sum(each.held for each in found) > MEMORY_BYTES:
            return f"used more than {MEMORY_BYTES // MIB} MiB of memory"
        if len(found) > 2 * PROCESSES:
            return f"started more than {PROCESSES} processes"
        # The outermost process sees the machine's /tmp, all others the program's as soon as it has started.
        for each in found[1:] if started and self.isolated else ():
            with suppress(OSError):
                tmp = os.statvfs(f"/proc/{each.pid}/root/tmp")
                return f"made more than {FILES} files" if tmp.f_files - tmp.f_ffree > FILES else None
        return None

    def _judge(self, stopped: str | None) -> Outcome:
        """Return the outcome, from the report and the exit of the process."""
        answer = self.report.removeprefix(b"\0")
        if answer.startswith(self.secret):
            status, text = answer[len(self.secret) :][:1], answer[len(self.secret) + 1 :]
            return Outcome(True, "passed") if status == b"+" else Outcome(False, text.decode(errors="replace").strip())
        if stopped is not None:
            return Outcome(False, stopped)
        code = self.process.returncode
        if not self.report:
            last_line = self.tail.decode(errors="replace").strip().split("\n")[-1]
            return Outcome(False, f"did not start: {last_line or f'exit code {code}'}")
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return Outcome(False, "timed out or killed")
        return Outcome(False, f"exited early with code {code}")

    def _end(self) -> None:
        """Kill every process of the program and wait until none holds the verdict's pipe."""
        left = list(descendants(self.process.pid))
        for each in left[1:]:
            each.kill()
        if self.isolated:
            # The outermost process ends by itself, and collects what is inside, which else the machine's init has to.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + GONE_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.verdict, selectors.EVENT_READ)
            while (left_s := deadline - time.monotonic()) > 0:
                if selector.select(left_s) and not os.read(self.verdict.fileno(), 65536):
                    return


def _registered(selector: selectors.BaseSelector) -> set[object]:
    return {key.fileobj for key in selector.get_map().values()}


@dataclass(frozen=True)
class Process:
    """A process of the program, as it was seen.

    Attributes:
        pid: its number, which the kernel may give to another once it has ended.
        started: when it was started, which tells those two apart.
        held: bytes of memory, whether resident, swapped out or in page tables.
    """

    pid: int
    started: bytes
    held: int

    def kill(self) -> None:
        """Kill it unless it has ended."""
        with suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                if start_of(self.pid) == self.started:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


HELD = re.compile(rb"^(?:VmRSS|VmSwap|VmPTE):\s+(\d+) kB", re.MULTILINE)


def start_of(pid: int) -> bytes:
    """Return when a process was started, in the kernel's ticks."""
    # The name of the program, in brackets, may hold anything.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]


def descendants(pid: int) -> Iterator[Process]:
    """Yield `pid` and every descendant."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        try:
            started = start_of(pid)
            held = sum(map(int, HELD.findall(Path(f"/proc/{pid}/status").read_bytes()))) * 1024
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (OSError, IndexError):
            continue
        yield Process(pid, started, held)
