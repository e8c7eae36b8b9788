"""The command with small settings on the demo model, and what a run may leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.artifacts.keys import sha256_of
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.workspace import Artifact, Workspace
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
VARIANTS = ("bf16", "int8_dynamic")
SETTINGS = (
    f"variants=[{','.join(VARIANTS)}]",
    "stage=all",
    "calibration.num_samples=16",
    "bench.num_prompts=4",
    "bench.repeats=1",
    "bench.warmup_prompts=1",
    "eval.limit=4",
)
# Names each process of a case, also one that left its group and its parent.
MARK = "PIPELINE_RELIABILITY_CASE"
# Seconds within which a process must have ended after a signal, and its descendants after it.
END_S, ORPHANS_S = 10.0, 15.0
LONGEST_S = 900.0
FINISHED = re.compile(r"(calibrate|quantize|verify|bench|eval)-[0-9a-f]{8}")


@dataclass(frozen=True)
class Case:
    """A folder of outputs, one for temporary files, and the name by which processes are found."""

    outputs: Path
    temporary: Path
    name: str

    def start(self, module: Sequence[str], *overrides: str) -> subprocess.Popen[str]:
        """Start the command in a group of its own; its standard error is kept beside the outputs."""
        self.outputs.mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(parents=True, exist_ok=True)
        own = {"TMPDIR": str(self.temporary), MARK: self.name, "PYTHONPATH": str(ROOT)}
        with self.log.open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *module, *SETTINGS, *overrides, f"outputs={self.outputs}"],
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **own},
                start_new_session=True,
            )

    def finish(self, *overrides: str) -> tuple[int, str]:
        """Run the command to its end; return its exit code and what it said."""
        process = self.start(["pipeline"], *overrides)
        try:
            code = process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return code, self.said

    @property
    def log(self) -> Path:
        """File of the last run's standard error."""
        return self.temporary.with_name(f"{self.temporary.name}.log")

    @property
    def said(self) -> str:
        """Content of the log."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def processes(self) -> list[int]:
        """Return the processes of this case that are still there."""
        mark, found = f"{MARK}={self.name}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if (
                    mark in path.read_bytes().split(b"\0")
                    and psutil.Process(int(path.parent.name)).status() != "zombie"
                ):
                    found.append(int(path.parent.name))
            except (OSError, psutil.Error):
                continue
        return found

    def orphans(self, patience: float = ORPHANS_S) -> list[str]:
        """Wait for the end of all processes; return those that stay, and end them."""
        deadline = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        names = []
        for pid in left:
            try:
                names.append(f"process {psutil.Process(pid).name()}")
                os.kill(pid, signal.SIGKILL)
            except (OSError, psutil.Error):
                continue
        return names

    def faults(self) -> list[str]:
        """Return what no kill may leave: an artifact that is not whole, or one that is marked as failed."""
        workspace, found = Workspace(self.outputs, hashes=True), []
        for folder in self.outputs.rglob("*"):
            if folder.is_dir() and FINISHED.fullmatch(folder.name):
                try:
                    manifest = read_manifest(folder)
                except PipelineError as error:
                    found.append(str(error))
                    continue
                if manifest is None:
                    found.append(f"{folder.name} has no manifest")
                elif manifest.status != "not_applicable" and (why := workspace.why(artifact_of(manifest, folder))):
                    found.append(f"{folder.name}: {why}")
        return found

    def drafts(self) -> list[str]:
        """Return the temporary files within the outputs, which the next run removes."""
        return [path.name for path in self.outputs.rglob(".*") if path.name.endswith((".tmp", ".kept", ".partial"))]

    def files_left(self) -> list[str]:
        """Return the temporary files beside the outputs: sockets and folders of any process of the case."""
        return [path.name for path in self.temporary.rglob("*") if not path.is_dir()]

    def checkpoints(self) -> dict[str, str]:
        """Return the digest of each file of the checkpoints."""
        files = (path for path in self.outputs.glob("demo/*/quantize-*/checkpoint/**/*") if path.is_file())
        return {path.relative_to(self.outputs).as_posix(): sha256_of(path) for path in files}


def artifact_of(manifest: Manifest, folder: Path) -> Artifact:
    """Return the artifact that a manifest describes."""
    fields = {"stage": manifest.stage, "model": manifest.model, "variant": manifest.variant}
    return Artifact(**fields, payload=manifest.payload, folder=folder)


def steps(outputs: Path) -> dict[tuple[str, str], float]:
    """Return the seconds of each step of a finished run, by stage and variant, in their order."""
    found = [manifest for path in outputs.rglob("manifest.json") if (manifest := read_manifest(path.parent))]
    found.sort(key=lambda each: each.started)
    return {(each.stage, each.variant or ""): each.seconds for each in found}


class Results:
    """The outcomes of cases, each a line of a file, by the name of the case."""

    def __init__(self, path: Path) -> None:
        """Read the lines that are there."""
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.known: dict[str, dict[str, object]] = {each["case"]: each for each in map(json.loads, filter(None, lines))}

    def add(self, case: str, **outcome: object) -> None:
        """Append an outcome."""
        self.known[case] = {"case": case, **outcome}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(self.known[case]) + "\n")
        lost = outcome.get("lost")
        print(f"{case}: {'; '.join(map(str, lost)) if isinstance(lost, list) and lost else 'ok'}", flush=True)

    def __contains__(self, case: str) -> bool:
        return case in self.known


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a process with the block, if it has not ended by itself."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
