"""Shortages of the machine, told from what libraries raise: storage that cannot be written, and memory.

safetensors, torch and pyarrow wrap the system's error in one of their own, some of them only as text.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError, ServerError, StageError, StorageError

GIB = 2**30
# Free bytes below which a failed write without a stated reason has this one.
FULL = 2**20
STORAGE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "it is not writable",
    errno.EPERM: "it is not writable",
    errno.ENOTDIR: "it is no folder",
    errno.EIO: "the device fails (input/output error)",
    errno.ESTALE: "the network folder is gone (stale handle)",
}
MAKE_ROOM = "Free some space or set outputs=<a folder on another disk>"
# What may come of any path, so that the text of an error without a number says nothing of `outputs`.
OF_A_PATH = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO, errno.ESTALE)
WAYS_OUT = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: "Free some space, raise the quota, or set outputs=<a folder on another disk>",
}
_NUMBERED = re.compile(r"(?:os error |\[?[Ee]rrno )(\d+)")
_FAILED_WRITES = re.compile(
    r"PytorchStreamWriter failed|file write failed|failed to write|error while serializing", re.I
)
# What torch, its allocators and others say where memory is short.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc", re.I)
# How a process of the run ended that the kernel killed, for the want of memory if nobody else did.
_KILLED = re.compile(r"exited with code -9\b|ended by SIGKILL")
SERVED = (
    "Lower serve.cpu_kv_cache_gib, serve.max_num_seqs or serve.max_model_len (on a GPU serve.gpu_memory_utilization), "
    "or end what else uses the memory."
)
LESS_MEMORY = {
    "calibrate": "Set calibration.layerwise=always, or lower calibration.max_seq_length or calibration.num_samples.",
    "quantize": (
        "Lower calibration.max_seq_length or calibration.algorithm_samples, choose a format that reads no data "
        "(fp8_dynamic, w4a16), or end what else uses the memory; on a GPU hardware.device=cpu uses the host's."
    ),
    "verify": SERVED,
    "bench": SERVED,
    "eval": f"{SERVED} eval.num_concurrent is the number of prompts in flight.",
}


def shortage(error: BaseException, name: str, stage: str, root: Path) -> PipelineError | None:
    """Return the error to show for a shortage or another error of the system; None for any other exception.

    A PipelineError that a shortage of memory caused stays, and its remedy is extended.

    Args:
        error: what a stage raised.
        name: display name of the artifact in the making.
        stage: name of its stage.
        root: `outputs`.
    """
    if isinstance(error, ServerError) and free_bytes(root) < FULL:
        # A server or its client on a full disk ends without a word: its log is there, too.
        return storage_shortage(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), root, name)
    causes = list(_causes(error))
    refusals = (storage_shortage(each, root, name) for each in causes if not isinstance(each, PipelineError))
    if refusal := next(filter(None, refusals), None):
        return refusal
    less = LESS_MEMORY.get(stage, "")
    if isinstance(error, PipelineError):
        if any(map(is_memory, causes)) or _NO_MEMORY.search(error.problem) or _KILLED.search(error.problem):
            error.remedy = f"{error.remedy} If memory ran out: {less}".strip()
        return None
    if is_memory(error):
        return StageError(f"{name}: memory ran out ({_first_line(error)}).", less)
    if isinstance(error, OSError):
        file = _file_of(error)
        return StageError(f"{name}: {error.strerror or _first_line(error)}{f': {file}' if file else ''}.")
    return None


def storage_shortage(error: BaseException, root: Path, name: str = "") -> StorageError | None:
    """Return the error to show where storage cannot be written; None for any other exception."""
    number = storage_error(error, root)
    if number is None:
        return None
    file = _file_of(error)
    place, folder = (file, Path(file)) if _is_elsewhere(file, root) else (f"outputs={root}", root)
    return StorageError(
        f"{f'{name}: ' if name else ''}{place} cannot be written, {STORAGE[number]} "
        f"({free_bytes(folder) / GIB:.2f} GiB free).",
        f"{WAYS_OUT.get(number, 'Set outputs=<a folder that can be written>')}; nothing finished was lost.",
    )


def is_memory(error: BaseException) -> bool:
    """Return True for the error of an allocation on the host or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def storage_error(error: BaseException, root: Path) -> int | None:
    """Return the number of the system's error for storage that cannot be written; None for any other exception."""
    if isinstance(error, OSError) and error.errno is not None:
        is_ours = error.errno not in OF_A_PATH or not _is_elsewhere(_file_of(error), root)
        return error.errno if error.errno in STORAGE and is_ours else None
    text = str(error)
    known = [number for number in STORAGE if number not in OF_A_PATH]
    if (found := _NUMBERED.search(text)) and int(found[1]) in known:
        return int(found[1])
    named = (number for number in known if os.strerror(number) in text)
    is_full = _FAILED_WRITES.search(text) and free_bytes(root) < FULL
    return next(named, errno.ENOSPC if is_full else None)


def free_bytes(path: Path) -> int:
    """Return the free space where a path is, or would be."""
    path = path.resolve()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it follows from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_elsewhere(file: str, root: Path) -> bool:
    return bool(file) and not Path(file).resolve().is_relative_to(root.resolve())


def _file_of(error: BaseException) -> str:
    return str(error.filename or "") if isinstance(error, OSError) else ""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200].rstrip(".")
