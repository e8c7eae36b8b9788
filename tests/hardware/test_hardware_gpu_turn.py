"""A turn on a shared GPU, with a stand-in for nvidia-smi that answers from files."""

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.hardware import gpu_turn
from pipeline.hardware.gpu_turn import occupants, take
from pipeline.hardware.probe import Hardware
from pipeline.runner import Runner

GPU = "GPU-8932f937"
STAND_IN = """#!/bin/sh
case "$*" in
  *compute-apps=gpu_uuid*) cat {0}/used ;;
  *compute-apps*) cat {0}/apps ;;
  *index,*) cat {0}/all ;;
  *memory.used,memory.total*) cat {0}/memory ;;
  *memory.free*) echo 143767 ;;
esac
"""
NOTEBOOK = "4321, 5120, /opt/conda/bin/python\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three H200s: the first is asked about, a server is on the second, and nobody uses the third."""
    program = tmp_path / "nvidia-smi"
    program.write_text(STAND_IN.format(tmp_path))
    program.chmod(0o755)
    (tmp_path / "apps").touch()
    (tmp_path / "used").write_text(f"{GPU}\n")
    (tmp_path / "memory").write_text("4, 143771\n")
    (tmp_path / "all").write_text(f"0, {GPU}, 5124, 143771\n1, GPU-1, 90000, 143771\n2, GPU-2, 4, 143771\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held: dict[str, int] = {}
    monkeypatch.setattr(gpu_turn, "_held", held)
    yield tmp_path
    for descriptor in held.values():
        os.close(descriptor)


def refusal(wait_minutes: float = 0) -> InputError:
    with pytest.raises(InputError) as caught:
        take(GPU, wait_minutes, lambda line: None, interval_s=0.01)
    return caught.value


def lock(machine: Path) -> Path:
    (found,) = machine.glob("quantization-pipeline-*.lock")
    return found


def test_an_idle_gpu_is_taken_until_the_process_ends(machine: Path) -> None:
    take(GPU, 0, pytest.fail)
    take(GPU, 0, pytest.fail)
    with lock(machine).open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_gpu_that_computes_for_others_is_refused_with_the_ways_out(machine: Path) -> None:
    (machine / "apps").write_text(NOTEBOOK)
    error = refusal()
    assert error.problem == "The GPU is in use: process 4321 (python, 5,120 MiB)."
    assert error.remedy == (
        "CUDA_VISIBLE_DEVICES=2 takes one that is idle, hardware.wait_minutes=60 waits, "
        "hardware.wait_minutes=null shares it (speeds are then unreliable)."
    )
    # The lock is not kept: the next run may have the GPU once the notebook is closed.
    (machine / "apps").write_text("")
    take(GPU, 0, pytest.fail)


def test_another_gpu_is_not_proposed_where_one_was_chosen(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (machine / "apps").write_text(NOTEBOOK)
    assert "CUDA_VISIBLE_DEVICES" not in refusal().remedy


def test_it_waits_until_the_gpu_is_free_and_says_so_once(machine: Path) -> None:
    (machine / "apps").write_text(NOTEBOOK)
    said: list[str] = []
    timer = threading.Timer(0.3, lambda: (machine / "apps").write_text(""))
    timer.start()
    started = time.monotonic()
    take(GPU, 1, said.append, interval_s=0.02)
    assert 0.2 < time.monotonic() - started < 30
    assert said == ["  waiting up to 1 minutes for the GPU, in use: process 4321 (python, 5,120 MiB)"]
    timer.join()


def test_the_wait_has_an_end(machine: Path) -> None:
    (machine / "apps").write_text(NOTEBOOK)
    error = refusal(0.005)
    assert "in use after 0.005 minutes" in error.problem and "hardware.wait_minutes=60 waits" in error.remedy


def test_null_shares_the_gpu(machine: Path) -> None:
    (machine / "apps").write_text(NOTEBOOK)
    take(GPU, None, pytest.fail)
    assert not list(machine.glob("*.lock"))


def test_two_runs_of_the_pipeline_exclude_each_other(machine: Path) -> None:
    program = (
        "import sys, tempfile, time; tempfile.tempdir = sys.argv[1]\n"
        "from pipeline.hardware.gpu_turn import take\n"
        f"take({GPU!r}, 0, print); print('taken', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(machine)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "taken\n"
        assert "another run of the pipeline" in refusal().problem
        other.kill()
    take(GPU, 0, pytest.fail)


def test_the_lock_of_another_user_needs_no_right_to_write(machine: Path) -> None:
    path = machine / f"quantization-pipeline-{GPU}.lock"
    path.touch(mode=0o444)
    take(GPU, 0, pytest.fail)


def test_what_this_process_started_is_not_foreign(machine: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        (machine / "apps").write_text(f"{os.getpid()}, 600, python\n{child.pid}, 600, sleep\n")
        assert occupants(GPU) == ""
        child.kill()


def test_memory_of_another_container_counts(machine: Path) -> None:
    (machine / "memory").write_text("90000, 143771\n")
    assert occupants(GPU) == "90,000 of 143,771 MiB by processes that are not visible here"


@pytest.mark.parametrize("answer", ["[N/A], [N/A]\n", "No devices were found\n", ""])
def test_an_answer_without_figures_is_an_idle_gpu(machine: Path, answer: str) -> None:
    (machine / "apps").write_text(answer)
    (machine / "memory").write_text(answer)
    assert occupants(GPU) == ""


def test_a_run_is_refused_before_anything_is_made(settings, machine: Path) -> None:
    (machine / "apps").write_text(NOTEBOOK)
    given = ["stage=quantize", "quant=fp8_dynamic", "hardware=cpu", f"outputs={machine / 'outputs'}"]
    runner = Runner([settings(*given)], given)
    for job in runner.jobs:
        job.hardware = Hardware(
            device="cuda", name="NVIDIA H200", cores=2, memory_gib=140, device_id=GPU, gpus={"0": GPU}
        )
    with pytest.raises(InputError, match="process 4321"):
        runner.execute()
    assert not list(machine.glob("outputs/**/quantize-*"))
