"""Test of mutants: a copy of the working tree, and the nearest tests of each module in a fork of a warm process."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tools.mutants.sample import ROOT, Mutant, digest, mutated

STATE = ROOT / ".mutants"
# CPU seconds of each test file without a mutant, by digest; null where it fails.
TIMES = STATE / "seconds.json"
MARKS = "not slow and not alone and not vllm"
# Test files are added for a mutant until they take so much CPU time without it, in seconds.
TEST_SECONDS = 20.0
# A mutant may take so many times the CPU time of its tests without it, and this much more; and no longer than this.
PATIENCE, GRACE_SECONDS, LONGEST_SECONDS = 3.0, 15.0, 900.0
PRELOADED = (
    *("pytest", "hypothesis", "pydantic", "hydra", "scipy.stats", "torch", "safetensors.torch", "gguf"),
    *("transformers", "compressed_tensors.quantization.lifecycle.forward", "lm_eval.api.task"),
)
# Exit codes of pytest.
PASSED, FAILED, NO_TESTS = 0, 1, 5
Outcome = Literal["killed", "survived", "timeout", "broken", "untested"]


@dataclass(frozen=True)
class Result:
    """Outcome of one mutant, with digests of the module and the tests that it holds for."""

    mutant: Mutant
    outcome: Outcome
    module: str
    tests: str
    seconds: float
    killer: str = ""


@cache
def nearest(path: Path) -> tuple[Path, ...]:
    """Return the test files of a module, the nearest first."""
    folder = ROOT / "tests" / path.parent.relative_to("pipeline")
    while not any(folder.glob("test_*.py")):
        folder = folder.parent
    # A package's own tests have its name.
    own = sorted(folder.glob(f"test_*{path.parent.name if path.stem == '__init__' else path.stem}.py"))
    mirrored = sorted(folder.rglob("test_*.py"))
    importing = sorted(file for file, names in _imports().items() if ".".join(path.with_suffix("").parts) in names)
    return tuple(dict.fromkeys(file.relative_to(ROOT) for file in (*own, *mirrored, *importing)))


@cache
def _imports() -> dict[Path, frozenset[str]]:
    """Return the modules that each test file imports, by dotted names; those of `tests/e2e` run the whole command."""
    found = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        if file.parent.name == "e2e":
            continue
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        found[file] = frozenset(names)
    return found


class Worker:
    """A copy of the working tree in which mutants are tested one after another."""

    def __init__(self) -> None:
        """Copy what git tracks, and import the heavy packages."""
        self.tree = Path(tempfile.mkdtemp(prefix="mutants-"))
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self.seconds = _times()
        for name in PRELOADED:
            importlib.import_module(name)

    def test(self, mutant: Mutant) -> Result:
        """Run the nearest tests on a mutant."""
        path = Path(mutant.path)
        files = self._within_limit(nearest(path))
        digests = file_digest(path), tests_digest(path)
        if not files:
            return Result(mutant, "untested", *digests, 0.0)
        limit = PATIENCE * sum(self.seconds[file_digest(file)] or 0.0 for file in files) + GRACE_SECONDS
        target = self.tree / path
        source, began = target.read_text(encoding="utf-8"), time.monotonic()
        _rewrite(target, mutated(source, mutant.operator, mutant.occurrence))
        try:
            code, output, _ = self._pytest(files, limit)
        finally:
            _rewrite(target, source)
        failed = [line.removeprefix("FAILED ") for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        outcomes: dict[int | None, Outcome] = {None: "timeout", PASSED: "survived", FAILED: "killed"}
        seconds = round(time.monotonic() - began, 1)
        return Result(mutant, outcomes.get(code, "broken"), *digests, seconds, failed[0][:200] if failed else "")

    def _within_limit(self, files: Sequence[Path]) -> list[Path]:
        """Return the first files that together take less than `TEST_SECONDS`; those that fail unchanged are skipped."""
        chosen: list[Path] = []
        total = 0.0
        for file in files:
            digest = file_digest(file)
            if digest not in self.seconds:
                # The other worker may have timed it.
                self.seconds |= _times()
            if digest not in self.seconds:
                code, output, used = self._pytest([file], LONGEST_SECONDS)
                self.seconds[digest] = used if code in (PASSED, NO_TESTS) else None
                _store_times(_times() | self.seconds)
                if code not in (PASSED, NO_TESTS):
                    print(f"{file} fails without a mutant and is left out:\n{output[-2000:]}", file=sys.stderr)
            seconds = self.seconds[digest]
            if seconds is None or (chosen and total + seconds > TEST_SECONDS):
                continue
            chosen.append(file)
            total += seconds
        return chosen

    def _pytest(self, files: Sequence[Path], limit: float) -> tuple[int | None, str, float]:
        """Run test files in a fork until the first failure, for at most `limit` seconds of CPU time.

        Returns:
            exit code of pytest, None if it took too long; its output; CPU seconds.
        """
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                os.setsid()
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                os._exit(self._main(files))
            code, used = _wait(child)
            output.seek(0)
            return code, output.read().decode(errors="replace"), used

    def _main(self, files: Sequence[Path]) -> int:
        import pytest

        os.chdir(self.tree)
        shared = {"PIPELINE_TEST_CHECKPOINTS": str(self.tree / "checkpoints")}
        os.environ |= {"PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1", **shared}
        sys.path.insert(0, str(self.tree))
        options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-m", MARKS]
        try:
            return int(pytest.main([*options, *map(str, files)]))
        finally:
            sys.stdout.flush()


def _times() -> dict[str, float | None]:
    """Return the CPU seconds of test files that were timed, by digest."""
    return json.loads(TIMES.read_text()) if TIMES.is_file() else {}


def _store_times(seconds: dict[str, float | None]) -> None:
    """Replace the stored times; a reader sees the old file or the new one."""
    part = TIMES.with_name(f"{TIMES.name}.{os.getpid()}")
    part.write_text(json.dumps(seconds), encoding="utf-8")
    part.replace(TIMES)


def _wait(child: int) -> tuple[int | None, float]:
    """Return a process's exit code, None if it exceeded a limit, and its CPU seconds; end what it left behind."""
    deadline, code, used = time.monotonic() + LONGEST_SECONDS, None, 0.0
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code, used = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            break
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return (None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code), used


def _rewrite(path: Path, source: str) -> None:
    """Write a module; its compiled file goes, as two versions may have one size and one time."""
    path.write_text(source, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


# Cached from the start: who edits a test while mutants run has not changed what they were tested by.
@cache
def file_digest(path: Path) -> str:
    """Return a hash of a file's content."""
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]


@cache
def tests_digest(path: Path) -> str:
    """Return a digest of a module's nearest test files."""
    return digest(*map(file_digest, nearest(path)))[:16]
