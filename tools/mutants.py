"""Mutation run: change the code in one place at a time, and record if the nearest tests fail.

`make mutants` draws a seeded sample of places from the modules that compute results and decisions, lets Cosmic Ray's
operators make one mutant of each, and runs the nearest tests on it: those of the mirrored folder of `tests/`, the file
of the module's own name first, then those that import the module, as many as fit into `TEST_SECONDS`. Tests that are
slow, time themselves or start an engine are left out.

A mutant is killed if a test fails, survived if none does. Mutants that cannot be imported, and those listed in
`equivalent_mutants.yaml`, do not count. Every outcome is stored in `.mutants/`, so that a run that was stopped goes on
where it stopped: an outcome stands while the module stays as it is, that of a survivor while its tests do, too.

Mutants live in a copy of the working tree. Each is tested in a fork of a process that has imported the heavy packages.
"""

from __future__ import annotations

import argparse
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
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import yaml

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".mutants"
# CPU seconds of each test file without a mutant, by digest; null where it fails.
TIMES = STATE / "seconds.json"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.yaml")
AREAS = (
    "pipeline/compare",
    "pipeline/results",
    "pipeline/formats",
    "pipeline/tasks/code_scoring.py",
    "pipeline/stages/bench",
    "pipeline/stages/eval/options.py",
    "pipeline/stages/eval/tally.py",
    "pipeline/stages/quantize/kv_scales.py",
    "pipeline/stages/report/gate.py",
    "pipeline/stages/verify",
)
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
class Mutant:
    """One changed place: the operator's occurrence in the module, and the first line that differs, before and after."""

    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str

    @property
    def place(self) -> tuple[str, str, int]:
        """Identity within one version of the module."""
        return self.path, self.operator, self.occurrence

    @property
    def change(self) -> tuple[str, str, str, str]:
        """Identity in any version of the module."""
        return self.path, self.operator, self.before, self.after


@dataclass(frozen=True)
class Result:
    """Outcome of one mutant, with digests of the module and the tests that it holds for."""

    mutant: Mutant
    outcome: Outcome
    module: str
    tests: str
    seconds: float
    killer: str = ""


def modules(areas: Iterable[str]) -> list[Path]:
    """Return the modules of folders and files, relative to the root."""
    found = set()
    for area in areas:
        path = ROOT / area
        found |= {path} if path.is_file() else set(path.rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found)


def sample(paths: Sequence[Path], size: int, seed: int) -> list[Mutant]:
    """Draw places uniformly, and one mutant of each; the choice in one module does not depend on other modules."""
    chosen: list[Mutant] = []
    # A place is the occurrences of one kind of operator at one position.
    places = [(path, place) for path in paths for place in _places(path)]
    places.sort(key=lambda each: _digest(seed, each[0], *each[1][0]))
    for path, (name, occurrences) in places:
        if len(chosen) == size:
            break
        operator, occurrence = min(occurrences, key=lambda each: _digest(seed, path, *name, *each))
        if (mutant := _mutant(path, operator, occurrence)) is not None:
            chosen.append(mutant)
    return chosen


Place = tuple[tuple[str, str, int], list[tuple[str, int]]]


def _places(path: Path) -> list[Place]:
    """Return each place by line, kind of operator and number among equals, with its operators and occurrences."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / path).read_text(encoding="utf-8")
    lines, nodes = source.splitlines(), list(ast_nodes(get_ast(source)))
    found: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = defaultdict(list)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (start for node in nodes for start, _ in operator().mutation_positions(node))
        for occurrence, start in enumerate(positions):
            found[name.partition("/")[2].partition("_")[0], start].append((name, occurrence))
    seen: Counter[tuple[str, str]] = Counter()
    places: list[Place] = []
    for (kind, (line, _)), occurrences in sorted(found.items(), key=lambda item: item[0][1]):
        text = lines[line - 1].strip()
        if "TYPE_CHECKING" not in text:
            places.append(((text, kind, seen[text, kind]), occurrences))
            seen[text, kind] += 1
    return places


def mutated(source: str, operator: str, occurrence: int) -> str:
    """Return a module's source with one occurrence of an operator applied."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = mutate_code(source, get_operator(operator)(), occurrence)
    assert code is not None, (operator, occurrence)
    return str(code)


def _mutant(path: Path, operator: str, occurrence: int) -> Mutant | None:
    """Return a mutant; None if only annotations differ, or nothing that Python can parse was made."""
    source = (ROOT / path).read_text(encoding="utf-8")
    code = mutated(source, operator, occurrence)
    try:
        if _bare(source) == _bare(code):
            return None
    except SyntaxError:
        return None
    # A removed decorator leaves one line less.
    lines = zip([*source.splitlines(), ""], [*code.splitlines(), ""], strict=False)
    line, before, after = next((n, one, other) for n, (one, other) in enumerate(lines, 1) if one != other)
    return Mutant(str(path), operator, occurrence, line, before.strip(), after.strip())


class _Annotations(ast.NodeTransformer):
    """Removal of annotations, which no test can see."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _bare(source: str) -> str:
    return ast.dump(_Annotations().visit(ast.parse(source)))


@cache
def nearest(path: Path) -> tuple[Path, ...]:
    """Return the test files of a module, the nearest first."""
    folder = ROOT / "tests" / path.parent.relative_to("pipeline")
    while not any(folder.glob("test_*.py")):
        folder = folder.parent
    own = sorted(folder.glob(f"test_*{path.stem}.py"))
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
        self.seconds: dict[str, float | None] = json.loads(TIMES.read_text()) if TIMES.is_file() else {}
        for name in PRELOADED:
            importlib.import_module(name)

    def test(self, mutant: Mutant) -> Result:
        """Run the nearest tests on a mutant."""
        path = Path(mutant.path)
        files = self._within_limit(nearest(path))
        digests = _file_digest(path), tests_digest(path)
        if not files:
            return Result(mutant, "untested", *digests, 0.0)
        limit = PATIENCE * sum(self.seconds[_file_digest(file)] or 0.0 for file in files) + GRACE_SECONDS
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
            digest = _file_digest(file)
            if digest not in self.seconds:
                code, output, used = self._pytest([file], LONGEST_SECONDS)
                self.seconds[digest] = used if code in (PASSED, NO_TESTS) else None
                TIMES.write_text(json.dumps(self.seconds))
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


_worker: Worker | None = None


def _start() -> None:
    global _worker
    _worker = Worker()


def _test(mutant: Mutant) -> Result:
    assert _worker is not None
    return _worker.test(mutant)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


# Cached from the start: who edits a test while mutants run has not changed what they were tested by.
@cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]


@cache
def tests_digest(path: Path) -> str:
    """Return a digest of a module's nearest test files."""
    return _digest(*map(_file_digest, nearest(path)))[:16]


def known(path: Path) -> Iterator[Result]:
    """Yield the stored results, the oldest first."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        fields = json.loads(line)
        yield Result(**{**fields, "mutant": Mutant(**fields["mutant"])})


def is_settled(result: Result) -> bool:
    """Return True if nothing that the outcome depends on has changed."""
    path = Path(result.mutant.path)
    if not (ROOT / path).is_file() or result.module != _file_digest(path):
        return False
    return result.outcome in ("killed", "broken") or result.tests == tests_digest(path)


def equivalents() -> dict[tuple[str, str, str, str], str]:
    """Return the reasons why mutants change nothing, by the changes."""
    entries = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []
    return {(each["path"], each["operator"], each["before"], each["after"]): each["why"] for each in entries}


def report(results: Sequence[Result]) -> bool:
    """Print survivors and the score; return True if it reaches 90 %."""
    same = equivalents()
    for result in sorted(results, key=lambda each: (each.mutant.path, each.mutant.line)):
        mutant = result.mutant
        if result.outcome in ("survived", "untested") and mutant.change not in same:
            print(f"{mutant.path}:{mutant.line}: {result.outcome} ({mutant.operator.partition('/')[2]})")
            print(f"  - {mutant.before}\n  + {mutant.after}")
    counts = Counter("equivalent" if each.mutant.change in same else each.outcome for each in results)
    killed = counts["killed"] + counts["timeout"]
    counted = killed + counts["survived"] + counts["untested"]
    share = killed / counted if counted else 0.0
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()))
    print(f"{killed} of {counted} killed: {share:.1%}")
    return share >= 0.9


def main() -> int:
    """Run or resume a mutation run; return 1 below 90 %."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("areas", nargs="*", default=AREAS, help="modules or folders")
    parser.add_argument("--sample", type=int, default=300, help="number of mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--list", action="store_true", help="print the sample, run nothing")
    args = parser.parse_args()
    chosen = sample(modules(args.areas), args.sample, args.seed)
    if args.list:
        for mutant in chosen:
            print(f"{mutant.path}:{mutant.line}  {mutant.before}  ->  {mutant.after}")
        return 0
    STATE.mkdir(exist_ok=True)
    store = STATE / "results.jsonl"
    results = {each.mutant.place: each for each in known(store) if is_settled(each)}
    due = [mutant for mutant in chosen if mutant.place not in results]
    print(f"{len(chosen)} mutants, {len(due)} to test", flush=True)
    if due:
        for mutant in due:
            tests_digest(Path(mutant.path))
        with ProcessPoolExecutor(args.processes, get_context("fork"), _start) as pool, store.open("a") as file:
            for number, result in enumerate(pool.map(_test, due), 1):
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                results[result.mutant.place] = result
                print(f"{number}/{len(due)} {result.outcome} {result.seconds} s {result.mutant.path}", flush=True)
    return 0 if report([results[mutant.place] for mutant in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
