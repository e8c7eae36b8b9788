"""One command on a machine of two GPUs, which are emulated: both work, and no figure is taken on a shared one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import stub_vllm
from support.settings import variants_of

from pipeline import lanes
from pipeline import runner as module
from pipeline.artifacts.workspace import Draft
from pipeline.config import PROJECT_ROOT, Stage
from pipeline.errors import NotApplicable, ServerError
from pipeline.hardware import gpu_turn
from pipeline.hardware.probe import Hardware
from pipeline.job import Job
from pipeline.runner import Runner
from pipeline.stages import bench, calibrate, quantize, verify
from pipeline.stages import eval as eval_stage

GPUS = {"0": "GPU-a", "1": "GPU-b"}
FOUR = "variants=[bf16,fp8_dynamic,w4a16,bf16@tp2]"


class Step(NamedTuple):
    """One step as it ran: what, on which GPUs by the environment and by its record, on which cores, and when."""

    variant: str
    stage: str
    block: int
    visible: str
    device: str
    cores: Sequence[int]
    began: float
    ended: float

    @property
    def gpus(self) -> set[str]:
        return set(self.visible.split(","))

    def overlaps(self, other: Step) -> bool:
        return self.began < other.ended and other.began < self.ended


class Machine:
    """Two GPUs and two cores, with stages that note where and when they ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes.jsonl"
        self.fails: dict[tuple[str, str, int], Exception] = {}
        self.held: dict[str, int] = {}
        monkeypatch.setattr(gpu_turn, "_held", self.held)
        hardware = Hardware(
            device="cuda", name="NVIDIA H200", cores=2, memory_gib=140, memory_mib=143771, compute_capability=9.0,
            device_id="GPU-a", gpus=GPUS,
        )  # fmt: skip
        monkeypatch.setattr(module, "probe", lambda device: hardware)
        # A fork has the stages of this test.
        monkeypatch.setattr(lanes, "CONTEXT", multiprocessing.get_context("fork"))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        for stage in (calibrate, quantize, verify, bench, eval_stage):
            monkeypatch.setattr(stage, "make", partial(self.make, stage.__name__.rpartition(".")[2]))

    def make(self, stage: str, job: Job, draft: Draft) -> None:
        began, visible = time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        time.sleep(0.2)
        cores = sorted(os.sched_getaffinity(0))
        step = Step(str(job.variant), stage, job.block, visible, job.hardware.device_id, cores, began, time.monotonic())
        with self.notes.open("a") as notes:
            notes.write(json.dumps(step) + "\n")
        if error := self.fails.get((str(job.variant), stage, job.block)):
            raise error

    def run(self, *words: str) -> int:
        given = [*words, f"outputs={self.folder / 'outputs'}"]
        self.notes.write_text("")
        self.runner = Runner(variants_of(*given), given)
        return self.runner.execute()

    @property
    def steps(self) -> list[Step]:
        return [Step(*json.loads(line)) for line in self.notes.read_text().splitlines()]

    def of(self, stage: str) -> list[Step]:
        return [step for step in self.steps if step.stage == stage]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(monkeypatch, tmp_path)
    yield found
    for descriptor in found.held.values():
        os.close(descriptor)


def test_both_gpus_work_and_no_figure_is_taken_on_a_shared_one(machine: Machine) -> None:
    assert machine.run("stage=[bench,eval]", FOUR, "bench.blocks=2") == 0
    served = [step for step in machine.steps if step.stage in ("verify", "bench", "eval")]
    assert {(s.variant, s.stage, s.block) for s in served if s.stage == "bench"} == {
        (name, "bench", block) for name in ("bf16", "fp8_dynamic", "w4a16", "bf16@tp2") for block in (0, 1)
    }
    together = [(one, other) for one, other in combinations(served, 2) if one.overlaps(other)]
    assert any({one.visible, other.visible} == {"0", "1"} for one, other in together), "both work"
    for one, other in together:
        assert not one.gpus & other.gpus and not set(one.cores) & set(other.cores)
        assert one.variant != other.variant
    # What takes both GPUs has the machine to itself, with all of its cores.
    divided = [step for step in served if step.variant == "bf16@tp2"]
    assert {(step.visible, step.device, len(step.cores)) for step in divided} == {("0,1", "GPU-a,GPU-b", 2)}
    assert machine.held.keys() == {"GPU-a", "GPU-b"}, "others wait for both"
    # What is made once is made once.
    assert len(served) == len({(s.variant, s.stage, s.block) for s in served})


def test_a_block_is_measured_on_one_gpu(machine: Machine) -> None:
    machine.run("stage=bench", "variants=[bf16,fp8_dynamic,w4a16]", "bench.blocks=4")
    devices = {block: {step.device for step in machine.of("bench") if step.block == block} for block in range(4)}
    assert devices == {0: {"GPU-a"}, 1: {"GPU-b"}, 2: {"GPU-a"}, 3: {"GPU-b"}}
    for step in machine.steps:
        assert step.stage in ("quantize", "calibrate") or step.device == GPUS[step.visible]
    manifests = [json.loads(path.read_text()) for path in machine.folder.glob("outputs/**/bench-*/manifest.json")]
    assert {each["hardware"]["device_id"] for each in manifests} == {"GPU-a", "GPU-b"}
    assert {each["hardware"]["cores"] for each in manifests} == {1}


def test_scores_are_divided_where_there_are_fewer_blocks_than_gpus(machine: Machine) -> None:
    machine.run("stage=[bench,eval]", "variants=[bf16,fp8_dynamic,w4a16]")
    assert {step.visible for step in machine.of("bench")} == {"0"}
    assert {step.visible for step in machine.of("eval")} == {"1"}
    machine.run("stage=eval", "variants=[bf16,fp8_dynamic,w4a16]", "eval.limit=7")
    assert {step.visible for step in machine.of("eval")} <= {"0", "1"}


def test_a_rerun_does_nothing_and_one_lane_is_another_condition(machine: Machine) -> None:
    given = ("stage=bench", "variants=[bf16,fp8_dynamic]", "bench.blocks=2")
    machine.run(*given)
    assert machine.run(*given) == 0 and not machine.steps
    assert machine.run(*given, "hardware.lanes=1") == 0
    # The whole machine's cores are another condition than half of them.
    assert [(step.visible, len(step.cores)) for step in machine.of("bench")] == [("0", 2)] * 4


def test_the_loads_of_a_ladder_wait_for_the_benchmark_that_they_derive_from(machine: Machine) -> None:
    machine.run("stage=bench", "variants=[fp8_dynamic,bf16]", "bench=ladder_quick", "bench.blocks=2")
    found = machine.of("bench")
    first = next(step for step in found if (step.variant, step.block) == ("bf16", 0))
    assert all(step.began >= first.ended for step in found if step is not first)


@pytest.mark.parametrize(
    ("failing", "lost"),
    [
        (("fp8_dynamic", "bench", 1), set()),
        (("fp8_dynamic", "verify", 0), {("fp8_dynamic", 0), ("fp8_dynamic", 1)}),
    ],
)
def test_what_fails_in_a_lane_is_a_failure_of_the_run(
    machine: Machine, failing: tuple[str, str, int], lost: set[tuple[str, int]]
) -> None:
    machine.fails = {failing: ServerError("it died.", "Look.")}
    # The gate may be made in any block.
    if failing[1] == "verify":
        machine.fails = {(*failing[:2], block): ServerError("it died.", "Look.") for block in (0, 1)}
    given = ("stage=bench", "variants=[bf16,fp8_dynamic,w4a16]", "bench.blocks=2")
    assert machine.run(*given) == ServerError.exit_code
    assert str(machine.runner.failures["fp8_dynamic"]) == "it died. Look."
    assert len(machine.of("verify")) == 3, "a gate that failed is not tried in the other lane"
    tried = {(step.variant, step.block) for step in machine.of("bench")}
    assert tried == {(name, block) for name in ("bf16", "fp8_dynamic", "w4a16") for block in (0, 1)} - lost


def test_what_a_lane_finds_unserved_is_a_result(machine: Machine) -> None:
    machine.fails = {("w4a16", "verify", block): NotApplicable("no kernel") for block in (0, 1)}
    assert machine.run("stage=bench", "variants=[bf16,w4a16]", "bench.blocks=2") == 0
    assert machine.runner.not_applicable == {"w4a16": "no kernel"}


def test_the_plan_says_what_runs_at_the_same_time(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.run("stage=bench", FOUR, "dry_run=true")
    machine.runner.plan()
    said = capsys.readouterr().err
    assert "2 x NVIDIA H200, 2 cores" in said
    assert "2 servers at a time, each on 1 GPU and 1 core; 1 server on 2 GPUs and 2 cores" in said


def test_a_lane_that_is_killed_ends_the_run_with_a_reason(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(job: Job, draft: Draft) -> None:
        os.kill(os.getpid(), 9)

    monkeypatch.setattr(bench, "make", die)
    with pytest.raises(module.PipelineError, match="The process on GPU [01] ended with code -9"):
        machine.run("stage=bench", "variants=[bf16,fp8_dynamic]")
    assert not multiprocessing.active_children()


TWO_GPUS = """#!/bin/sh
case "$*" in
  *=index*) printf '0\\n1\\n' ;;
  *uuid*"-i 0"*) echo "NVIDIA H200, 143771, 9.0, GPU-a" ;;
  *uuid*"-i 1"*) echo "NVIDIA H200, 143771, 9.0, GPU-b" ;;
esac
"""


def command(folder: Path, behaviour: str) -> subprocess.Popen[str]:
    """Begin a run of real processes, from the command to the servers of a stand-in for vLLM, on two GPUs."""
    (folder / "nvidia-smi").write_text(TWO_GPUS)
    (folder / "nvidia-smi").chmod(0o755)
    python, _ = stub_vllm.make(folder, behaviour)
    words = ["stage=eval", "variants=[bf16,bf16+fp8_e5m2]", f"serve.python={python}", f"outputs={folder / 'outputs'}"]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        env={**environment, "PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder)},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=PROJECT_ROOT,
    )  # fmt: skip


def servers(folder: Path) -> dict[int, dict[str, str]]:
    """Return the environment of each server that was started, by its pid."""
    found = folder.glob("environment-*.json")
    return {int(path.stem.partition("-")[2]): json.loads(path.read_text()) for path in found}


def test_one_command_starts_a_server_on_each_gpu(tmp_path: Path) -> None:
    with command(tmp_path, "dies at start") as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == ServerError.exit_code, said
    for gpu in GPUS:
        assert f"GPU {gpu}:  verify bf16" in said
    assert said.count("no room for the cache") >= 2
    environments = servers(tmp_path).values()
    assert {each["CUDA_VISIBLE_DEVICES"] for each in environments} == {"0", "1"}
    assert {each["CUDA_DEVICE_ORDER"] for each in environments} == {"PCI_BUS_ID"}


def test_a_signal_to_the_command_ends_its_lanes_and_their_servers(tmp_path: Path) -> None:
    with command(tmp_path, "hangs at start") as run:
        deadline = time.monotonic() + 200
        # The other lane waits for BF16's answers.
        while not servers(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert servers(tmp_path).keys() & {each.pid for each in family}, said
    assert run.returncode == 143, said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not list(tmp_path.glob("outputs/**/verify-*/manifest.json")), "nothing counts as failed"


def test_cores_are_divided_without_a_rest_that_two_share() -> None:
    for number in (1, 2):
        shares = lanes.shares_of_cores(number)
        found = [core for share in shares for core in share]
        assert len(shares) == number and all(shares)
        if number <= len(os.sched_getaffinity(0)):
            assert len(found) == len(set(found))


def test_stages_that_are_served_come_in_one_order() -> None:
    assert module.schedule.SERVED == (Stage.VERIFY, Stage.BENCH, Stage.EVAL)
