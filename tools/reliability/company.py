"""Runs that are not alone: two in one folder of outputs, one of them killed, and one beside a busy process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.reliability.command import Case, Results, ended

QUANTIZE = ("stage=quantize",)
DONE = re.compile(r"^  (\S+ ?\S*) +done ", re.M)
WAITED = re.compile(r"waiting: process \d+ is making it")
BUSY = "import torch, time\na = torch.randn(1500, 1500)\nprint('busy', flush=True)\nwhile True: a @ a"
# How many times as long a step may take beside one busy process.
LIMIT = 3.0


def keep_company(work: Path, results: Results) -> None:
    """Run each case that has no result yet."""
    for name, run in (("two runs", two_runs), ("two runs, first killed", first_killed), ("busy machine", busy)):
        if name not in results:
            results.add(name, kind="company", **run(work / name.replace(" ", "-").replace(",", "")))


def two_runs(folder: Path) -> dict[str, object]:
    """Start the command twice at once; each artifact must be made once, and the later run wait for the first."""
    first, second = _pair(folder)
    with ended(first.start(["pipeline"], *QUANTIZE)) as one, ended(second.start(["pipeline"], *QUANTIZE)) as two:
        codes = [one.wait(600), two.wait(600)]
    made = DONE.findall(first.said) + DONE.findall(second.said)
    lost = [*first.faults(), *first.drafts(), *(f"exit code {code}" for code in codes if code)]
    lost += [f"{name} was made twice" for name in sorted(set(made)) if made.count(name) > 1]
    return {"lost": lost, "made": len(made), "waited": len(WAITED.findall(first.said + second.said))}


def first_killed(folder: Path) -> dict[str, object]:
    """Kill the run that another one waits for, which must then make the artifact itself."""
    first, second = _pair(folder)
    with ended(first.start(["pipeline"], *QUANTIZE)) as one:
        while not list(first.outputs.glob("demo/.calibrate-*.tmp")) and one.poll() is None:
            time.sleep(0.05)
        with ended(second.start(["pipeline"], *QUANTIZE)) as two:
            while not WAITED.search(second.said) and two.poll() is None and one.poll() is None:
                time.sleep(0.05)
            one.send_signal(signal.SIGKILL)
            code = two.wait(600)
    lost = [*first.faults(), *first.drafts(), *([f"exit code {code}"] if code else [])]
    return {"lost": lost, "made": len(DONE.findall(second.said)), "waited": len(WAITED.findall(second.said))}


def busy(folder: Path) -> dict[str, object]:
    """Compare the time of quantizing alone and beside a process that computes with all threads it can have."""
    alone = _seconds(Case(folder / "alone", folder / "t-alone", "alone"))
    free = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, env=free) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            beside = _seconds(Case(folder / "beside", folder / "t-beside", "beside"))
        finally:
            other.kill()
    ratio = beside / alone
    lost = [f"{ratio:.1f} times as long, more than {LIMIT:g}"] if ratio > LIMIT else []
    return {"lost": lost, "alone": round(alone, 1), "beside": round(beside, 1), "ratio": round(ratio, 2)}


def _seconds(case: Case) -> float:
    case.finish(*QUANTIZE)
    found = re.findall(r"quantize int8_dynamic +done +([\d.]+) s", case.said)
    return float(found[0]) if found else float("inf")


def _pair(folder: Path) -> tuple[Case, Case]:
    outputs = folder / "outputs"
    return Case(outputs, folder / "t-1", f"{folder.name} 1"), Case(outputs, folder / "t-2", f"{folder.name} 2")
