"""Environments of engines with conflicting pins: one each, created on first use from a hashed lock.

`requirements/engines/<name>.txt` is the lock. torch is not in it: the environment links the project's, which saves
2.5 GB, and nothing else of it, since an old transformers imports whatever new packages it finds. A worker
(beside this module) runs there as a subprocess, asked and answering in JSON; it ends when we end.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections import deque
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pipeline import waiting_threads
from pipeline.artifacts.workspace import user_cache
from pipeline.config import RESOURCES
from pipeline.config.credentials import SECRET
from pipeline.errors import ConfigError, StageError

if TYPE_CHECKING:
    from pipeline.progress import Progress

LOCKS = RESOURCES / "requirements" / "engines"
HOST = Path(__file__).with_name("host.py")
CACHE = "PIPELINE_ENGINES"
# torch and the libraries that its CUDA build loads; requirements/lock.py excludes them from an engine's lock.
LINKED = re.compile(r"(torch|triton|nvidia-(?!ml-py).*|cuda-.*)")


def folder_of(name: str) -> Path:
    """Return the folder of an engine's environment, which may not exist yet.

    Raises:
        ConfigError: if there is no lock with that name.
    """
    lock = LOCKS / f"{name}.txt"
    if not lock.is_file():
        known = ", ".join(sorted(path.stem for path in LOCKS.glob("*.txt"))) or "none"
        raise ConfigError(f"engine={name} has no environment of its own.", f"{LOCKS} has: {known}.")
    return user_cache("engines", CACHE) / f"{name}-{_key(lock)}"


def environment(name: str, progress: Progress) -> Path:
    """Return the interpreter of an engine's environment; create the environment if missing.

    Raises:
        ConfigError: if there is no lock with that name.
        StageError: if it cannot be installed.
    """
    folder = folder_of(name)
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), f"waiting for another run that installs {name}", progress):
        if not python.exists():
            # Creation is atomic: an incomplete one has another name, and is deleted when the next one is started.
            for old in (folder, *folder.parent.glob(f".{folder.name}.*")):
                shutil.rmtree(old, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            progress.say(f"  installing {name} (once)")
            _build(name, LOCKS / f"{name}.txt", partial, progress)
            partial.rename(folder)
    return python


def call(name: str, script: Path, request: Mapping[str, object], log: Path, progress: Progress) -> dict[str, Any]:
    """Run a worker in an engine's environment.

    Args:
        name: the engine.
        script: the worker, with a function `work(request, progress)`.
        request: request to the worker, as JSON.
        log: file for the output of the worker and its libraries.
        progress: display of the worker's progress messages.

    Returns:
        The worker's answer.

    Raises:
        StageError: if the worker exits without an answer.
    """
    command = [str(environment(name, progress)), "-I", str(HOST), str(script)]
    log.parent.mkdir(parents=True, exist_ok=True)
    last = ""
    with log.open("wb") as errors, _process(command, stdin=subprocess.PIPE, stderr=errors) as process:
        assert process.stdin is not None and process.stdout is not None
        # If the worker exits before the request, its log has the reason. Closing the pipe would end the worker.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            message = _parsed(line)
            if message is not None and set(message) == {"progress"}:
                progress.detail(str(message["progress"]))
            else:
                last = line
        code = _ended(process)
    if code:
        raise StageError(f"{name} {_ending(code, log)}.", f"Its log is {log}.")
    answer = _parsed(last)
    if answer is None:
        said = f"answered {last.strip()[:80]!r}, which is no JSON object" if last else "ended without an answer"
        raise StageError(f"{name} {said}.", f"Its log is {log}.")
    return answer


def _key(lock: Path) -> str:
    """Return the key of an environment: the lock, the interpreter, and the torch that it links."""
    torch = importlib.util.find_spec("torch")
    parts = [lock.read_text(), sys.version, str(torch and torch.origin), metadata.version("torch")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _locked(path: Path, waiting: str, progress: Progress) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.detail(waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(name: str, lock: Path, folder: Path, progress: Progress) -> None:
    """Create an environment in `folder` with the project's pip, and link torch into it."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    _link_torch(site)
    command = [
        *(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "off"),
        *("--disable-pip-version-check", "--no-input", "-r", str(lock)),
    ]
    said: deque[str] = deque(maxlen=50)
    with _process(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith("Collecting "):
                progress.detail(f"installing {name}: {line.split()[1]}")
        code = _ended(process)
    if code:
        lines = [line for line in said if line] or ["nothing"]
        reason = ([line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines)[-1]
        raise StageError(
            f"The environment of {name} could not be installed; pip said: {reason}.",
            f"Give pip an index that has what {lock} names (`pip config list`), or choose another engine.",
        )


def _link_torch(site: Path) -> None:
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if LINKED.fullmatch(name):
            for entry in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                if not (site / entry).exists():
                    (site / entry).symlink_to(Path(str(distribution.locate_file(entry))).absolute())


@contextlib.contextmanager
def _process(command: list[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process in its own group, without the user's keys and tokens, and end the group with the block."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not SECRET.fullmatch(name)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=own | waiting_threads.environment(),
        start_new_session=True,
        **pipes,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _ended(process: subprocess.Popen[str]) -> int:
    """Wait for the exit code, and end the remaining processes of the group."""
    # Until it is reaped, its process id cannot be reused for another group.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _ending(code: int, log: Path) -> str:
    """Describe the end of a process: the signal, or the exit code with the last line of its log."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"failed with exit code {code}" + (f": {lines[-1][:200].rstrip('.')}" if lines else "")
