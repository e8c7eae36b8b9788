"""Signals at seeded moments of every step, and right before and after each publication.

The kills of a round hit one folder of outputs: each rerun goes on with what the kills before left of it, and is killed
at its next step. The last rerun ends by itself, and must have made what an undisturbed run makes, byte by byte.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tools.reliability.command import END_S, LONGEST_S, Case, Results, ended, steps

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
TARGETS = ("process", "group")
CODES = {"SIGKILL": (-9,), "SIGTERM": (143,), "SIGINT": (130,)}
# Moments within each step of a round, and those around its publication.
ROUNDS = ((2, ("before",)), (2, ("after",)))
# Seconds that a report takes, which is no artifact.
REPORT_S = 4.0


class Moment(NamedTuple):
    """A moment to send a signal: around the publication of an artifact, or at a share of a step's usual time."""

    stage: str
    variant: str
    side: str
    share: float
    number: str
    target: str


def moments(reference: Path, round_: int) -> list[Moment]:
    """Return the moments of a round, in the order in which its reruns reach them."""
    draw, found = random.Random(f"reliability {round_}"), []
    within, sides = ROUNDS[round_]
    for stage, variant in steps(reference):
        for side in [*["within"] * within, *sides]:
            number, target = draw.choice(SIGNALS), draw.choice(TARGETS)
            found.append(Moment(stage, variant, side, draw.random(), number, target))
    report = [Moment("report", "", "within", draw.random(), draw.choice(SIGNALS), draw.choice(TARGETS))]
    return [*found, *report]


def kill_all(work: Path, reference: Case, results: Results, is_over: Callable[[], bool]) -> None:
    """Run the rounds beside each other, as far as the time allows."""
    usual, whole = steps(reference.outputs), reference.checkpoints()

    def round_of_kills(number: int) -> None:
        case = Case(work / f"round-{number}" / "outputs", work / f"t{number}", f"round {number}")
        for index, moment in enumerate(moments(reference.outputs, number)):
            name = f"kill {number}.{index:02d}"
            if name not in results and not is_over():
                results.add(name, kind="kill", **moment._asdict(), **killed(case, moment, usual))
        name = f"round {number}"
        if name not in results and not is_over():
            results.add(name, kind="round", **completed(case, whole))

    with ThreadPoolExecutor(len(ROUNDS)) as pool:
        for done in [pool.submit(round_of_kills, number) for number in range(len(ROUNDS))]:
            done.result()


def killed(case: Case, moment: Moment, usual: dict[tuple[str, str], float]) -> dict[str, object]:
    """Run the command into a moment; return what was lost and how long the end took."""
    # An earlier kill may have come after the end of a short step, which is due again without its artifact.
    due = _artifacts(case, moment, "{}-*")
    if moment.stage == "reference":
        # It is made for a gate that is due.
        due += case.outputs.glob("demo/*/verify-*")
    for folder in due:
        shutil.rmtree(folder)
    at = [moment.side, moment.stage, moment.variant, moment.number, moment.target]
    module = ["pipeline"] if moment.side == "within" else ["tools.reliability.victim", *at]
    started = time.time()
    with ended(case.start(module)) as process:
        sent = None
        if moment.side == "within":
            _await(case, moment, process, usual, started)
            sent = time.monotonic()
            _send(process, moment)
        code = _wait(process, sent)
    lost = [*case.orphans(), *case.faults()]
    # A short step may have ended before the signal, and the run with it.
    if code not in ((0, *CODES[moment.number]) if moment.side == "within" else CODES[moment.number]):
        lost.append(f"exit code {code}: {case.said[-300:]}")
    took = None if sent is None else round(time.monotonic() - sent, 2)
    return {"code": code, "lost": lost, "seconds": took, "drafts": len(case.drafts())}


def completed(case: Case, whole: dict[str, str]) -> dict[str, object]:
    """Let a round end by itself; return what it left or made otherwise than an undisturbed run."""
    code, said = case.finish()
    lost = [*case.orphans(), *case.faults(), *case.drafts()]
    if code:
        lost.append(f"exit code {code}: {said[-300:]}")
    made = case.checkpoints()
    lost += [f"{name} differs" for name in sorted({*made, *whole}) if made.get(name) != whole.get(name)]
    return {"code": code, "lost": lost, "files": len(made), "temporary": case.files_left()}


def _await(
    case: Case,
    moment: Moment,
    process: subprocess.Popen[str],
    usual: dict[tuple[str, str], float],
    started: float,
) -> None:
    """Wait until a step has begun and its share of the time has passed, or the run has ended."""
    deadline = time.monotonic() + LONGEST_S
    while not _has_begun(case, moment, len(usual), started) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = time.monotonic() + usual.get((moment.stage, moment.variant), REPORT_S) * moment.share
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _has_begun(case: Case, moment: Moment, artifacts: int, started: float) -> bool:
    if moment.stage == "report":
        return len(list(case.outputs.glob("demo/**/manifest.json"))) >= artifacts
    # A short step may have ended between two looks.
    return bool(_artifacts(case, moment, "{}-*")) or any(
        _changed_at(draft) > started for draft in _artifacts(case, moment, ".{}-*.tmp")
    )


def _changed_at(draft: Path) -> float:
    """Return the time of a folder's last change; a draft of a killed run is older than its rerun, which removes it."""
    try:
        return draft.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def _artifacts(case: Case, moment: Moment, pattern: str) -> list[Path]:
    names = ("demo", moment.variant, pattern.format(moment.stage))
    return [path for path in case.outputs.glob("/".join(filter(None, names))) if path.is_dir()]


def _send(process: subprocess.Popen[str], moment: Moment) -> None:
    number = signal.Signals[moment.number]
    if process.poll() is None:
        os.killpg(process.pid, number) if moment.target == "group" else process.send_signal(number)


def _wait(process: subprocess.Popen[str], sent: float | None) -> int:
    """Return the exit code; a process that outlives its time after a signal is killed, and has another one."""
    try:
        return process.wait(LONGEST_S if sent is None else END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 255


def counted(results: Results) -> Iterator[tuple[str, int]]:
    """Yield how many runs each signal ended, by what it was sent to, and how many had ended before it came."""
    kills = [each for each in results.known.values() if each["kind"] == "kill"]
    for number in SIGNALS:
        for target in TARGETS:
            ended = [each["code"] for each in kills if (each["number"], each["target"]) == (number, target)]
            yield f"{number}, {target}", sum(code != 0 for code in ended)
    yield "none: the run had ended before", sum(each["code"] == 0 for each in kills)
