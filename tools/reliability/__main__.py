"""`python -m tools.reliability`: run the cases that have no result yet, and write `docs/reliability.md` (`--help`)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline import interruption
from tools.reliability.command import ROOT, Case, Results
from tools.reliability.company import keep_company
from tools.reliability.disks import fill_disks
from tools.reliability.fuzz import fuzz
from tools.reliability.kills import kill_all
from tools.reliability.page import PAGE, page
from tools.reliability.sandbox import try_ways_out

PARTS = ("company", "disks", "fuzz", "kills", "sandbox")


def main() -> int:
    """Return 1 if anything was lost."""
    # A job in the background of a shell ignores them, and so would all that it starts.
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # The run in progress ends with this process.
    interruption.install()
    parser = argparse.ArgumentParser(prog="python -m tools.reliability", description=__doc__)
    parser.add_argument("--minutes", type=float, default=40, help="start no further case after so long (40)")
    parser.add_argument("--only", choices=PARTS, action="append", help="part of the cases; again for another")
    parser.add_argument("--work", type=Path, default=ROOT / ".reliability", help="folder of runs and results")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write")
    asked = parser.parse_args()
    deadline: float = time.monotonic() + 60 * asked.minutes
    results = Results(asked.work / "results.jsonl")
    work = asked.work.resolve() / "runs"
    parts = asked.only or PARTS

    def is_over() -> bool:
        return time.monotonic() > deadline

    if "company" in parts and not is_over():
        keep_company(work, results)
    if "fuzz" in parts and not is_over():
        fuzz(results)
    if "sandbox" in parts and not is_over():
        try_ways_out(results, is_over)
    reference = Case(work / "reference" / "outputs", work / "tr", "reference")
    if {"disks", "kills"} & set(parts) and not is_over():
        code, said = reference.finish()
        if code:
            print(f"the undisturbed run ended with exit code {code}:\n{said[-2000:]}", file=sys.stderr)
            return 1
        # Last, since they take what is left of the time; beside each other, since much of each is waiting.
        with ThreadPoolExecutor() as pool:
            running = []
            if "disks" in parts:
                running.append(pool.submit(fill_disks, work, reference.outputs, results))
            if "kills" in parts:
                running.append(pool.submit(kill_all, work, reference, results, is_over))
            for each in running:
                each.result()
    asked.page.write_text(page(results), encoding="utf-8")
    return int(any(each["lost"] for each in results.known.values()))


if __name__ == "__main__":
    sys.exit(main())
