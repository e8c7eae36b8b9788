"""Storage that fills in each stage, or cannot be written at all, as a file system of its own (`tmpfs`).

A mount of its own needs root, or a user namespace; without either the cases are left out, and the document says so.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pipeline.artifacts.manifest import read_manifest
from tools.reliability.command import LONGEST_S, Case, Results, artifact_of, ended

STAGES = ("calibrate", "quantize", "bench", "eval")
SIZE = "300m"
# Run within the namespace: the mount, and this module again.
MOUNTED = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def fill_disks(work: Path, reference: Path, results: Results) -> None:
    """Run each case that has no result yet, in a mount namespace of its own."""
    for stage in (*STAGES, "read-only"):
        name = f"disk {stage}"
        if name in results:
            continue
        place, answer = work / "disk", work / f"disk-{stage}.txt"
        place.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
        inside = [sys.executable, "-m", "tools.reliability.disks", stage, str(place), str(reference), str(answer)]
        command = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        subprocess.run([*command, "sh", "-c", MOUNTED, "sh", SIZE, str(place), *inside], check=False)
        if answer.is_file():
            results.add(name, kind="disk", lost=answer.read_text().splitlines())
        else:
            results.add(name, kind="disk", lost=[], skipped="no mount is possible here")


def judged(stage: str, place: Path, reference: Path) -> list[str]:
    """Run the command on the mounted place while it fills in a stage; return what was lost or not said."""
    case = Case(place / "outputs", place.with_name("disk-t"), f"disk {stage}")
    if stage == "read-only":
        case.outputs.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        code, said = case.finish()
        return _told(code, said, "it is read-only")
    _prepare(case, stage, reference)
    before = {path: path.stat().st_ino for path in case.outputs.rglob("manifest.json")}
    filler = place / "filler"
    with ended(case.start(["pipeline"])) as process:
        deadline = time.monotonic() + LONGEST_S
        while not _drafts(case, stage) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        _fill(filler)
        code = process.wait(LONGEST_S)
    lost = [*_told(code, case.said, "no space is left"), *case.orphans(), *case.faults()]
    lost += [f"{path.parent.name} was lost" for path, inode in before.items() if not _is(path, inode)]
    filler.unlink()
    code, said = case.finish()
    return [*lost, *case.faults(), *case.drafts(), *([f"the rerun: exit code {code}: {said[-300:]}"] if code else [])]


def _prepare(case: Case, stage: str, reference: Path) -> None:
    """Copy the artifacts of earlier stages from a finished run, so that this stage is the first one due."""
    order = ("calibrate", "quantize", "reference", "verify", "bench", "eval")
    shutil.copytree(reference, case.outputs, symlinks=True, ignore=shutil.ignore_patterns("logs", "report"))
    for path in list(case.outputs.rglob("manifest.json")):
        manifest = read_manifest(path.parent)
        if manifest is not None and order.index(artifact_of(manifest, path.parent).stage) >= order.index(stage):
            shutil.rmtree(path.parent)


def _drafts(case: Case, stage: str) -> list[Path]:
    return list(case.outputs.rglob(f".{stage}-*.tmp"))


def _is(path: Path, inode: int) -> bool:
    return path.is_file() and path.stat().st_ino == inode


def _fill(path: Path) -> None:
    with path.open("wb") as file:
        try:
            while file.write(bytes(1 << 20)):
                file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def _told(code: int, said: str, why: str) -> list[str]:
    """Return what is missing from the message: the folder, the reason, the space that is free; no traceback."""
    lost = [] if code == 1 else [f"exit code {code}"]
    lost += [f"{word!r} was not said" for word in ("outputs=", why, "GiB free") if word not in said]
    return [*lost, *(["a traceback"] if "Traceback" in said else [])]


if __name__ == "__main__":
    stage, place, reference, answer = sys.argv[1:5]
    Path(answer).write_text("\n".join(judged(stage, Path(place), Path(reference))))
