"""Worker that makes attempts in one kind of sandbox, as whatever user runs it; the standard library is all it needs.

Standard input has the kind and the attempts as JSON, standard output one line of JSON for each. What a program may not
reach is planted on the host first: files, a key, sockets, shared memory, a process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.tasks.sandbox.sandbox import ENVIRONMENT, Sandbox
from pipeline.tasks.sandbox.supervisor import GONE_TIMEOUT_S, WALL_PER_CPU, Process, descendants, start_of
from pipeline.tasks.sandbox.syscalls import DENIED, MISSING, number_of
from pipeline.tasks.sandbox.visible import visible

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
class GotOut(BaseException): pass
def out(what): raise GotOut(what)
def call(name, *arguments):
    number = FACTS["numbers"][name] if isinstance(name, str) else name
    plain = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return -ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *plain) == -1 else 0
def denied(*answers):
    for place, answer in enumerate(answers):
        if answer not in (-errno.EPERM, -errno.ENOSYS):
            out(f"call {place + 1} was answered {errno.errorcode.get(-answer, 'success')}")
def fails(action, *arguments):
    try:
        action(*arguments)
    except (OSError, ValueError):
        return
    out(f"{getattr(action, '__name__', action)}{arguments}")
"""
GOOD = "from concurrent.futures import ThreadPoolExecutor as T\nassert sum(T(4).map(abs, range(-9, 9))) == 81"
# Memory of the kernel and of no process, beyond the programs' limit of 1 GiB.
HELD_MIB = 1200
SAMPLE_S = 0.02


@contextmanager
def planted() -> Iterator[dict[str, Any]]:
    """Plant on the host what a program is to be kept from; yield what it needs to know to look for it."""
    secret = f"secret-{secrets.token_hex(8)}"
    libc = ctypes.CDLL(None, use_errno=True)
    with ExitStack() as stack:
        facts: dict[str, Any] = {
            "secret": secret,
            "hostname": os.uname().nodename,
            "environment": sorted(ENVIRONMENT),
            "paths": visible().paths,
            "host": os.getpid(),
            "numbers": {name: number for name in DENIED if (number := number_of(name)) is not None},
        }
        facts["numbers"] |= {"clone3": MISSING["clone3"][0]}
        facts["numbers"] |= (
            {"socket": 41, "socketpair": 53, "clone": 56}
            if os.uname().machine == "x86_64"
            else {"socket": 198, "socketpair": 199, "clone": 220}
        )
        os.environ["PLANTED_SECRET"] = secret
        for name, folder in (("home_file", Path.home()), ("tmp_file", Path("/tmp"))):
            with suppress(OSError):
                file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".planted-"))
                file.write(secret.encode())
                file.flush()
                facts[name] = file.name
        facts.setdefault("home_file", facts["tmp_file"])
        shared = Path("/dev/shm", secret)
        shared.write_text(secret)
        stack.callback(shared.unlink)
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory()), "socket")
        for name, address in (("address", f"\0{secret}"), ("socket_file", str(sockets))):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
            facts[name] = address
        facts["port"] = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        victim = stack.enter_context(subprocess.Popen(["sleep", "3600"]))
        stack.callback(victim.kill)
        key, queue = secret.encode(), f"/{secret}".encode()
        # A keyring of this run, so that the user's own is left as it is.
        libc.syscall(facts["numbers"]["keyctl"], 1, key)
        key_id = libc.syscall(facts["numbers"]["add_key"], b"user", key, key, len(key), -3)
        shm_key = secrets.randbelow(2**31)
        segment = libc.shmget(shm_key, 4096, 0o1600)
        stack.callback(libc.shmctl, segment, 0, None)
        facts |= {"key": secret, "key_id": key_id, "shm_key": shm_key, "shm_name": secret, "victim": victim.pid}
        facts["queue"] = queue.decode()
        yield facts


class Watch:
    """Observer of the host while a program runs: memory that no process holds, and processes that it started."""

    def __init__(self, victim: int) -> None:
        """Note what is there before; of the children, the victim alone."""
        self.known = {os.getpid(), victim}
        self.seen: dict[int, Process] = {}
        self.before = self.held = held_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self.held = max(self.held, held_mib())
            for each in descendants(os.getpid()):
                if each.pid not in self.known:
                    self.seen[each.pid] = each

    def left(self) -> str | None:
        """Return what is left of the program, or what it held too much of, if anything."""
        if self.held - self.before > HELD_MIB:
            return f"{self.held - self.before} MiB that no process holds"
        deadline = time.monotonic() + 1
        while alive := [each for each in self.seen.values() if runs(each)]:
            if time.monotonic() > deadline:
                return f"{len(alive)} processes that still run: {[command_of(each.pid) for each in alive]}"
            time.sleep(SAMPLE_S)
        return None


def command_of(pid: int) -> str:
    """Return the beginning of a process's command line."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()[:200].decode(errors="replace")
    return ""


def runs(process: Process) -> bool:
    """Return whether a process still runs; one that only waits to be collected does not."""
    with suppress(OSError):
        state = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X") and start_of(process.pid) == process.started
    return False


def held_mib() -> int:
    """Return the memory of the machine that is in no process: shared memory, and the kernel's own."""
    found = re.findall(
        r"^(?:Shmem|SUnreclaim|PageTables|KernelStack):\s+(\d+)", Path("/proc/meminfo").read_text(), re.M
    )
    return sum(map(int, found)) // 1024


def make(box: Sandbox, attempt: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Run one attempt; return its verdict, its detail, what it did to the host and the seconds."""
    start = f"FACTS = {facts!r}\n{PRELUDE}" if attempt.get("prelude", True) else ""
    seconds = attempt.get("seconds", 2)
    started = time.monotonic()
    hurt: str | None = None
    with ThreadPoolExecutor(4) as pool, Watch(facts["victim"]) as watch:
        running = pool.submit(box.run, f"{start}{attempt['program']}", timeout_s=seconds)
        if attempt.get("neighbours"):
            time.sleep(0.3)
            others = [pool.submit(box.run, GOOD, timeout_s=20) for _ in range(3)]
            bad = [each.result().detail for each in others if not each.result().passed]
            hurt = f"{len(bad)} of 3 neighbours: {bad[0]}" if bad else None
        outcome = running.result()
        taken = time.monotonic() - started
    hurt = hurt or watch.left()
    if not Path(f"/proc/{facts['victim']}/cmdline").read_bytes():
        hurt = "a process of the host is gone"
    if not attempt.get("neighbours") and taken > WALL_PER_CPU * seconds + GONE_TIMEOUT_S + 20:
        hurt = f"held the evaluation for {taken:.0f} s"
    return {
        "name": attempt["name"],
        "verdict": outcome.passed,
        "detail": outcome.detail,
        "hurt": hurt,
        "seconds": round(taken, 2),
    }


def main() -> None:
    """Make the attempts of standard input."""
    given = json.load(sys.stdin)
    box = Sandbox(given["kind"])
    if given["kind"] != "none" and box.trouble is not None:
        print(json.dumps({"trouble": box.trouble}))
        return
    with planted() as facts:
        for attempt in given["attempts"]:
            print(json.dumps(make(box, attempt, facts)), flush=True)


if __name__ == "__main__":
    main()
