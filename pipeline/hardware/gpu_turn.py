"""A turn on a shared GPU: wait until nobody else uses it, or refuse to disturb them.

A turn lasts until this process ends. Runs of the pipeline exclude each other by a lock of the GPU, since two that find
it idle at the same moment would both begin; everybody else is seen by what `nvidia-smi` reports.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import InputError
from pipeline.hardware.probe import nvidia_smi

# Share of a GPU's memory that drivers and desktops may hold. More of it without a visible process is that of another
# container, whose processes `nvidia-smi` does not list.
IDLE_MEMORY = 0.1
INTERVAL_S = 10.0
SETTING = "hardware.wait_minutes"

# Locks of this process by GPU; the kernel releases them at its end, however it ends.
_held: dict[str, int] = {}


def take(gpu: str, wait_minutes: float | None, say: Callable[[str], None], interval_s: float = INTERVAL_S) -> None:
    """Take a turn on a GPU; do nothing if this process has it already.

    Args:
        gpu: its UUID; empty if unknown, for the first that CUDA will use.
        wait_minutes: longest wait; 0: none, None: share the GPU with anybody.
        say: prints a line, once, if there is somebody to wait for.
        interval_s: seconds between two looks.

    Raises:
        InputError: if others still use it after that time.
    """
    if wait_minutes is None or gpu in _held:
        return
    deadline, has_said = time.monotonic() + 60 * wait_minutes, False
    while occupied := _try(gpu):
        left = deadline - time.monotonic()
        if left <= 0:
            waited = f" after {wait_minutes:g} minutes" if wait_minutes else ""
            raise InputError(f"The GPU is in use{waited}: {occupied}.", _ways_out(wait_minutes))
        if not has_said:
            say(f"  waiting up to {wait_minutes:g} minutes for the GPU, in use: {occupied}")
            has_said = True
        time.sleep(min(interval_s, left))


def _try(gpu: str) -> str:
    """Take the lock and look for others; return who uses the GPU, empty if it is ours."""
    lock = _locked(gpu)
    if lock is None:
        return "another run of the pipeline"
    if found := occupants(gpu):
        os.close(lock)
        return found
    _held[gpu] = lock
    return ""


def occupants(gpu: str) -> str:
    """Return who else computes on a GPU, as words; empty if nobody does."""
    ours = _family()
    others = []
    for line in nvidia_smi("--query-compute-apps=pid,used_memory,process_name", gpu=gpu):
        pid, memory, name = (*map(str.strip, line.split(",", 2)), "", "")[:3]
        if pid.isdigit() and int(pid) not in ours:
            held = f", {int(memory):,} MiB" if memory.isdigit() else ""
            others.append(f"process {pid} ({Path(name).name or 'unknown'}{held})")
    return ", ".join(others) or _hidden_memory(gpu)


def _hidden_memory(gpu: str) -> str:
    """Return the memory in use by processes that are not listed, as words; empty if it is little."""
    for line in nvidia_smi("--query-gpu=memory.used,memory.total", gpu=gpu)[:1]:
        used, total = (*map(str.strip, line.split(",")), "", "")[:2]
        if used.isdigit() and total.isdigit() and int(used) > IDLE_MEMORY * int(total):
            return f"{int(used):,} of {int(total):,} MiB by processes that are not visible here"
    return ""


def _family() -> set[int]:
    """Return the pids of this process and its descendants."""
    import psutil

    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}


def _locked(gpu: str) -> int | None:
    """Return a descriptor that holds the lock of a GPU; None if another process holds it.

    The file belongs to whoever came first. Others cannot write it, and need not.
    """
    path = Path(tempfile.gettempdir()) / f"quantization-pipeline-{Path(gpu).name or 'gpu'}.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        # Without O_CREAT, which Linux refuses for another user's file in /tmp (fs.protected_regular).
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _ways_out(wait_minutes: float) -> str:
    """Return what can be done: wait, take another GPU, or share it."""
    longer = f"{SETTING}={60 if wait_minutes < 60 else 2 * wait_minutes:g} waits"
    share = f"{SETTING}=null shares it (speeds are then unreliable)"
    # Where a scheduler or the user has chosen, another GPU is not ours to propose.
    free = [] if "CUDA_VISIBLE_DEVICES" in os.environ else _idle()
    other = f"CUDA_VISIBLE_DEVICES={free[0]} takes one that is idle, " if free else ""
    return f"{other}{longer}, {share}."


def _idle() -> list[str]:
    """Return the numbers of the GPUs of this machine that nobody uses."""
    used_by_others = {line.strip() for line in nvidia_smi("--query-compute-apps=gpu_uuid", every=True)}
    found = []
    for line in nvidia_smi("--query-gpu=index,uuid,memory.used,memory.total", every=True):
        index, uuid, used, total = (*map(str.strip, line.split(",")), "", "", "", "")[:4]
        is_empty = used.isdigit() and total.isdigit() and int(used) <= IDLE_MEMORY * int(total)
        if is_empty and uuid not in used_by_others:
            found.append(index)
    return found
