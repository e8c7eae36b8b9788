"""Isolated execution of programs that a model wrote, each in a fresh interpreter.

A program sees the interpreter, its standard library, numpy and the system's shared libraries, read-only, and an empty
/tmp in memory from which nothing can be executed. It has no network (not even loopback), no environment of the user's,
no view of other processes, only the system calls that `syscalls` lets through, and limits on CPU time, wall time,
memory, processes, files and output; its child processes are killed with it. Isolation uses bubblewrap, or namespaces
directly, by the same rules; where the machine allows neither, programs are not run unless the user sets
`eval.unsafe_code=true`, which keeps only the limits.

Not covered: bugs of the kernel in the system calls that are let through; CPU and memory bandwidth taken from other
processes; some hundred MiB in the buffers of sockets and pipes; timing side channels; and a program that deliberately
forges its own verdict, which is computed in the same interpreter. Without isolation (`unsafe_code`) the user's files,
network and processes are all within reach, and a program that makes itself a daemon can stay.
"""

from __future__ import annotations

import marshal
import math
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Literal

from pipeline.errors import ConfigError
from pipeline.tasks.sandbox.supervisor import FILES, MEMORY_BYTES, MIB, PROCESSES, Outcome, Supervisor
from pipeline.tasks.sandbox.syscalls import filter_for, number_of
from pipeline.tasks.sandbox.visible import DEVICES, interpreter, visible

Kind = Literal["bubblewrap", "namespaces", "none"]

FILE_BYTES = 16 * MIB
TMP_BYTES = 64 * MIB
OPEN_FILES = 64
DEFAULT_TIMEOUT_S = 5.0

FOLDER = Path(__file__).parent
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    # Else numpy starts a thread for each core, and each thread reserves memory that counts against the limit.
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
# Isolated mode (-I) ignores PYTHONHASHSEED, but the order of sets must not change a score; so its parts are set.
INTERPRETER_FLAGS = ("-s", "-P", "-S", "-B")


class Sandbox:
    """One kind of isolation for programs."""

    def __init__(self, kind: Kind) -> None:
        """Choose the kind; nothing is started."""
        self.kind = kind

    def run(self, source: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Outcome:
        """Run a program to its end or to the first limit that it exceeds.

        Args:
            source: the program; it passes if it finishes without an exception.
            timeout_s: seconds of CPU time; wall time may be three times that.
        """
        secret = secrets.token_hex(16).encode()
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True))
            stdin = stack.enter_context(_in_memory(secret + b"\n" + source.encode(errors="replace")))
            steps = stack.enter_context(_in_memory(filter_for() or b""))
            reader, writer = os.pipe()
            verdict = stack.enter_context(os.fdopen(reader, "rb", buffering=0))
            try:
                process = subprocess.Popen(
                    self._arguments(folder, writer, steps.fileno(), timeout_s),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=ENVIRONMENT,
                    cwd=folder,
                    pass_fds=(writer, steps.fileno()) if self.kind == "bubblewrap" else (writer,),
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            with process:
                return Supervisor(process, verdict, secret, isolated=self.kind != "none").outcome(timeout_s)

    @cached_property
    def trouble(self) -> str | None:
        """Reason why this kind does not work on this machine, or None; determined by a trial program."""
        if self.kind == "bubblewrap" and shutil.which("bwrap") is None:
            return "not installed"
        if self.kind == "bubblewrap" and os.geteuid() == 0:
            return "does not limit root's processes"
        if filter_for() is None:
            return f"no system-call filter for {os.uname().machine}"
        address = f"\0sandbox-{secrets.token_hex(8)}"
        with tempfile.NamedTemporaryFile(prefix="sandbox-marker-") as marker, socket.socket(socket.AF_UNIX) as host:
            host.bind(address)
            host.listen()
            facts = {
                "marker": marker.name,
                "address": address,
                "environment": len(ENVIRONMENT) + 1,
                "paths": ["/", *visible().paths],
                "processes": PROCESSES,
                "keyctl": number_of("keyctl"),
            }
            outcome = self.run(f"FACTS = {facts!r}\n{PROBE}", timeout_s=10)
        return None if outcome.passed else outcome.detail

    def _arguments(self, folder: str, verdict: int, steps: int, timeout_s: float) -> list[str]:
        """Return the command line that runs one program."""
        limits = {
            "RLIMIT_CPU": max(1, math.ceil(timeout_s)),
            "RLIMIT_AS": MEMORY_BYTES,
            "RLIMIT_FSIZE": FILE_BYTES,
            "RLIMIT_NOFILE": OPEN_FILES,
            "RLIMIT_NPROC": PROCESSES + self._counted_elsewhere,
            "RLIMIT_CORE": 0,
        }
        seen = visible()
        options = {
            "limits": limits,
            "verdict": verdict,
            "packages": seen.packages,
            "executable": [path for path in seen.paths if path not in DEVICES] if self.kind == "bubblewrap" else [],
        }
        command = [interpreter(), *INTERPRETER_FLAGS, "-c", _runner(), marshal.dumps(options).hex()]
        if self.kind == "none":
            return command
        if self.kind == "bubblewrap":
            return [*_bubblewrap(), "--seccomp", str(steps), "--", *command]
        jail = {
            "root": folder,
            "visible": seen.paths,
            "links": seen.links,
            "tmp": f"size={TMP_BYTES},nr_inodes={FILES},mode=1777",
            "command": command,
            "env": ENVIRONMENT,
            "filter": filter_for() or b"",
        }
        return [interpreter(), "-I", "-S", "-B", str(FOLDER / "_jail.py"), marshal.dumps(jail).hex()]

    @cached_property
    def _counted_elsewhere(self) -> int:
        """Number of other processes that the kernel counts against the limit."""
        is_root = os.geteuid() == 0
        version = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
        # Since Linux 5.14 each user namespace has its own count; as root, each program has its own user.
        if self.kind == "namespaces" and (is_root or version >= (5, 14)):
            return 0
        if self.kind == "bubblewrap" and version >= (5, 14):
            return 0
        return _threads_of_user() + 256


# Fails if the sandbox leaks: what is checked is that each protection holds, not that nothing is known to pass it.
PROBE = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
assert not os.path.exists(FACTS["marker"]), "files of the host are visible"
assert "HOST_MARKER" not in os.environ and len(os.environ) <= FACTS["environment"], "the environment is visible"
for path in FACTS["paths"]:
    assert os.statvfs(path).f_flag & os.ST_RDONLY or not os.path.isdir(path), path + " is writable"
libc.syscall(FACTS["keyctl"], 0, -3, 0)
assert ctypes.get_errno() == errno.EPERM, "system calls are not filtered"
assert libc.prctl(39, 0, 0, 0, 0) == 1, "privileges can be regained"
assert os.getuid() != 0, "runs as root"
for family in (socket.AF_INET, socket.AF_NETLINK):
    try:
        socket.socket(family)
    except PermissionError:
        continue
    raise AssertionError("the network is within reach")
try:
    socket.socket(socket.AF_UNIX).connect(FACTS["address"])
    raise AssertionError("the host's sockets are within reach")
except OSError:
    pass
with open("/tmp/script", "w") as file:
    file.write("#!/bin/sh")
os.chmod("/tmp/script", 0o755)
try:
    os.execv("/tmp/script", ["script"])
except PermissionError:
    pass
children = 0
try:
    while children <= FACTS["processes"] and os.fork():
        children += 1
    if children <= FACTS["processes"]:
        libc.pause()
    raise AssertionError("processes are not limited")
except BlockingIOError:
    pass
import decimal, hashlib, zlib
"""


def _in_memory(content: bytes) -> IO[bytes]:
    """Return a file that has no name, at its beginning."""
    file = os.fdopen(os.memfd_create("program"), "wb+")
    file.write(content)
    file.seek(0)
    return file


def _threads_of_user() -> int:
    """Return the number of this user's threads, which the kernel counts as processes."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                count += len(os.listdir(entry / "task")) if entry.stat().st_uid == os.geteuid() else 0
    return count


@cache
def _runner() -> str:
    return (FOLDER / "_runner.py").read_text()


@cache
def _bubblewrap() -> tuple[str, ...]:
    """Return bubblewrap's command line, without the filter and the program's."""
    program = shutil.which("bwrap") or "bwrap"
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    arguments = [program, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    # The filter denies new user namespaces, too; installed setuid, bubblewrap does not know how.
    if "--disable-userns" in known and not os.stat(program).st_mode & stat.S_ISUID:
        arguments.append("--disable-userns")
    arguments += ["--hostname", "sandbox", "--uid", "1000", "--gid", "1000", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    # First, since packages may be installed below it.
    arguments += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    for path in visible().paths:
        arguments += ["--dev-bind" if path in DEVICES else "--ro-bind", path, path]
    for path, target in visible().links.items():
        arguments += ["--symlink", target, path]
    return (*arguments, "--remount-ro", "/", "--chdir", "/tmp")


@cache
def choose(*, unsafe: bool = False) -> Sandbox:
    """Return the first kind of isolation that works on this machine.

    Args:
        unsafe: run without isolation if none works.

    Raises:
        ConfigError: if none works and `unsafe` is not set.
    """
    kinds: tuple[Kind, ...] = ("bubblewrap", "namespaces")
    troubles = []
    for kind in kinds:
        sandbox = Sandbox(kind)
        if sandbox.trouble is None:
            return sandbox
        troubles.append(f"{kind}: {sandbox.trouble}")
    if unsafe:
        return Sandbox("none")
    raise ConfigError(
        f"Programs written by the model cannot be isolated on this machine ({'; '.join(troubles)}).",
        "Install bubblewrap, or allow unprivileged user namespaces (in a container, docker run with --security-opt "
        "seccomp=unconfined or --cap-add SYS_ADMIN); leave the task out (~eval.tasks.HumanEval); or accept the risk "
        "with eval.unsafe_code=true, which leaves only limits on time and memory.",
    )


@dataclass(frozen=True)
class _Policy:
    """Defaults for running programs."""

    unsafe: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S


_policy = _Policy()


@contextmanager
def policy(*, unsafe: bool, timeout_s: float) -> Iterator[None]:
    """Set how programs run within the block, in all threads (see `choose` and `run_program`)."""
    global _policy
    before, _policy = _policy, _Policy(unsafe, timeout_s)
    try:
        yield
    finally:
        _policy = before


def run_program(source: str, *, timeout_s: float | None = None) -> Outcome:
    """Run one program.

    Args:
        source: the program; it passes if it finishes without an exception.
        timeout_s: seconds of CPU time; None: the policy's.

    Raises:
        ConfigError: if this machine cannot isolate it.
    """
    sandbox = choose(unsafe=_policy.unsafe)
    outcome = sandbox.run(source, timeout_s=_policy.timeout_s if timeout_s is None else timeout_s)
    for outcomes in _records:
        outcomes.append(outcome)
    return outcome


_records: list[list[Outcome]] = []


@contextmanager
def recorded() -> Iterator[list[Outcome]]:
    """Record the outcomes of all programs that are run within the block, by any thread."""
    _records.append([])
    try:
        yield _records[-1]
    finally:
        _records.pop()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
