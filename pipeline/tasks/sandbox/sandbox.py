"""Isolated execution of programs that a model wrote, each in a fresh interpreter.

A program sees the interpreter, its standard library and the system's shared libraries, read-only, and an empty /tmp in
memory. It has no network (not even loopback), no environment of the user's, no view of other processes, and limits on
CPU time, wall time, memory, processes, file sizes and output; its child processes are killed with it. Isolation uses
bubblewrap, or namespaces directly; where the machine allows neither, programs are not run unless the user sets
`eval.unsafe_code=true`, which keeps only the limits.

Not covered: bugs of the kernel that a system call reaches (there is no system-call filter); CPU and memory bandwidth
taken from other processes; timing side channels; and a program that deliberately forges its own verdict, which is
computed in the same interpreter. Without isolation (`unsafe_code`) the user's
files, network and processes are all within reach, and a program that makes itself a daemon can stay.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.tasks.sandbox.supervisor import MEMORY_BYTES, MIB, PROCESSES, Outcome, Supervisor

Kind = Literal["bubblewrap", "namespaces", "none"]

FILE_BYTES = 16 * MIB
TMP_BYTES = 64 * MIB
OPEN_FILES = 64
DEFAULT_TIMEOUT_S = 5.0

FOLDER = Path(__file__).parent
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0"}
# Isolated mode (-I) ignores PYTHONHASHSEED, but the order of sets must not change a score; so its parts are set.
INTERPRETER_FLAGS = ("-s", "-P", "-S", "-B")
SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/lib32")
SYSTEM_FILES = ("/etc/ld.so.cache", "/usr/share/zoneinfo")


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
        reader, writer = os.pipe()
        with (
            tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder,
            os.fdopen(os.memfd_create("program"), "wb+") as stdin,
            os.fdopen(reader, "rb", buffering=0) as verdict,
        ):
            stdin.write(secret + b"\n" + source.encode(errors="replace"))
            stdin.seek(0)
            try:
                process = subprocess.Popen(
                    self._arguments(folder, writer, timeout_s),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=ENVIRONMENT,
                    cwd=folder,
                    pass_fds=(writer,),
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            with process:
                return Supervisor(process, verdict, secret).outcome(timeout_s)

    @cached_property
    def trouble(self) -> str | None:
        """Reason why this kind does not work on this machine, or None; determined by a trial program."""
        if self.kind == "bubblewrap" and shutil.which("bwrap") is None:
            return "not installed"
        if self.kind == "bubblewrap" and os.geteuid() == 0:
            return "does not limit root's processes"
        with tempfile.NamedTemporaryFile(prefix="sandbox-marker-") as marker:
            outcome = self.run(PROBE.format(marker=marker.name), timeout_s=10)
        return None if outcome.passed else outcome.detail

    def _arguments(self, folder: str, verdict: int, timeout_s: float) -> list[str]:
        """Return the command line that runs one program."""
        limits = {
            "RLIMIT_CPU": max(1, math.ceil(timeout_s)),
            "RLIMIT_AS": MEMORY_BYTES,
            "RLIMIT_FSIZE": FILE_BYTES,
            "RLIMIT_NOFILE": OPEN_FILES,
            "RLIMIT_NPROC": PROCESSES + self._counted_elsewhere,
            "RLIMIT_CORE": 0,
        }
        options = json.dumps({"limits": limits, "verdict": verdict})
        command = [_interpreter(), *INTERPRETER_FLAGS, "-c", _runner(), options]
        if self.kind == "none":
            return command
        visible, links = visible_paths()
        if self.kind == "bubblewrap":
            return [*_bubblewrap(visible, links), *command]
        jail = {
            "root": folder,
            "visible": visible,
            "links": links,
            "tmp_bytes": TMP_BYTES,
            "command": command,
            "env": ENVIRONMENT,
        }
        return [_interpreter(), "-I", "-S", "-B", str(FOLDER / "_jail.py"), json.dumps(jail)]

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


# Fails if the sandbox leaks: a file outside, a writable root, loopback, or more than one network interface.
PROBE = """
import os, socket
assert not os.path.exists({marker!r}), "files of the host are visible"
assert "HOST_MARKER" not in os.environ and len(os.environ) < 8, "the environment is visible"
try:
    open("/written", "w")
    raise SystemExit("the root file system is writable")
except OSError:
    pass
assert [name for _, name in socket.if_nameindex()] == ["lo"], "the host's network is visible"
open("/tmp/written", "w").write("x")
"""


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
def _interpreter() -> str:
    """Return the interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def visible_paths() -> tuple[list[str], dict[str, str]]:
    """Return the paths that a program may read (outermost only) and the links among the system's library folders."""
    folders = [path for path in SYSTEM_LIBRARIES if os.path.isdir(path)]
    links = {path: os.readlink(path) for path in folders if os.path.islink(path)}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
    python = [
        _interpreter(),
        # Paths of the interpreter itself; sysconfig's are those of the virtual environment.
        os.path.realpath(os.path.dirname(os.__file__)),
        os.path.realpath(sysconfig.get_config_var("DESTSHARED") or "/nonexistent"),
        *(str(path) for path in library.glob(f"libpython{version}*.so*")),
    ]
    paths: list[str] = []
    for path in [*(p for p in folders if p not in links), *SYSTEM_FILES, *python]:
        if os.path.exists(path) and not any(path == other or path.startswith(f"{other}/") for other in paths):
            paths.append(path)
    return paths, links


def _bubblewrap(visible: Sequence[str], links: dict[str, str]) -> list[str]:
    """Return bubblewrap's command line, without the program's."""
    arguments = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
    ]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    arguments += ["--uid", "1000", "--gid", "1000", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    for path in visible:
        arguments += ["--ro-bind", path, path]
    for path, target in links.items():
        arguments += ["--symlink", target, path]
    for name in ("null", "zero", "full", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    arguments += ["--symlink", "/tmp", "/dev/shm", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    return [*arguments, "--remount-ro", "/", "--chdir", "/tmp", "--"]


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
        "Install bubblewrap, or allow unprivileged user namespaces; or accept the risk with eval.unsafe_code=true, "
        "which leaves only limits on time and memory.",
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
    return sandbox.run(source, timeout_s=_policy.timeout_s if timeout_s is None else timeout_s)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
