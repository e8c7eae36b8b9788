"""Mutation run: change the code in one place at a time, and record if the nearest tests fail.

`make mutants` draws a seeded sample of places from the modules that compute results and decisions, lets Cosmic Ray's
operators make one mutant of each, and runs the nearest tests on it: those of the mirrored folder of `tests/`, the file
of the module's own name first, then those that import the module, as many as fit into `TEST_SECONDS`. Tests that are
slow, time themselves or start an engine are left out.

A mutant is killed if a test fails, survived if none does. Mutants that cannot be imported, and those listed in
`equivalent.yaml`, do not count. Every outcome is stored in `.mutants/`, so that a run that was stopped goes on
where it stopped: an outcome stands while the module stays as it is, that of a survivor while its tests do, too.

Mutants live in a copy of the working tree. Each is tested in a fork of a process that has imported the heavy packages.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import yaml

from tools.mutants.sample import ROOT, Mutant, modules, sample
from tools.mutants.worker import STATE, Result, Worker, file_digest, tests_digest

EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
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
_worker: Worker | None = None


def _start() -> None:
    global _worker
    _worker = Worker()


def _test(mutant: Mutant) -> Result:
    assert _worker is not None
    return _worker.test(mutant)


def known(path: Path) -> Iterator[Result]:
    """Yield the stored results, the oldest first."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        fields = json.loads(line)
        yield Result(**{**fields, "mutant": Mutant(**fields["mutant"])})


def is_settled(result: Result) -> bool:
    """Return True if nothing that the outcome depends on has changed."""
    path = Path(result.mutant.path)
    if not (ROOT / path).is_file() or result.module != file_digest(path):
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
