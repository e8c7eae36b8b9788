from pathlib import Path

import pytest

from pipeline.hardware import probe as module
from pipeline.hardware.probe import Hardware, nvidia_smi, probe

# Answers with the GPU it was asked about, as a machine with several of them does.
STAND_IN = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -i ] && echo "GPU $2"; shift; done
"""


@pytest.fixture
def several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("several_gpus")
@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        (None, ["GPU 0"]),
        ("1", ["GPU 1"]),
        ("3,0", ["GPU 3"]),
        ("GPU-8932f937", ["GPU GPU-8932f937"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_gpu_asked_about_is_the_one_that_cuda_takes(
    visible: str | None, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvidia_smi("--query-gpu=name") == asked


def test_without_the_program_there_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi("--query-gpu=name") == []


def test_memory_is_what_the_driver_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    line = "NVIDIA H200, 143771, 9.0"
    # As many columns as the query has.
    program.write_text(f"#!/bin/sh\ncase $1 in *uuid*) echo '{line}, GPU-8932f937';; *) echo '{line}';; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware = probe.__wrapped__("cuda")
    assert (hardware.memory_mib, hardware.memory_gib) == (143771, 140.4)
    assert probe.__wrapped__("cpu").memory_mib is None


# Two GPUs of one kind, each with its own UUID.
TWO = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -i ] && echo "NVIDIA H200, 143771, 9.0, GPU-00000000-$2"; shift; done
"""


@pytest.mark.parametrize("visible", [None, "0", "1"])
def test_a_gpu_is_identified_by_its_uuid(visible: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(TWO)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = probe.__wrapped__("auto")
    assert (found.name, found.compute_capability) == ("NVIDIA H200", 9.0)
    assert found.device_id == f"GPU-00000000-{visible or 0}"


# Four GPUs, one of them of another kind.
FOUR = """#!/bin/sh
case "$1" in *=index) printf '0\\n1\\n2\\n3\\n'; exit ;; esac
while [ $# -gt 0 ]; do
  if [ "$1" = -i ]; then
    case "$2" in 2) echo "NVIDIA T4, 15360, 7.5, GPU-2" ;; *) echo "NVIDIA H200, 143771, 9.0, GPU-$2" ;; esac
  fi
  shift
done
"""


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(FOUR)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, {"0": "GPU-0", "1": "GPU-1", "3": "GPU-3"}),
        ("3,1", {"3": "GPU-3", "1": "GPU-1"}),
        ("2,0", {"2": "GPU-2"}),
    ],
)
def test_the_gpus_are_the_visible_ones_of_the_first_ones_kind(
    visible: str | None, gpus: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = probe.__wrapped__("cuda")
    assert (found.gpus, found.device_id) == (gpus, next(iter(gpus.values())))


@pytest.mark.parametrize(
    ("gpus", "most", "parts"),
    [
        (1, None, [("GPU-0", 4), ("GPU-1", 4), ("GPU-2", 4)]),
        (1, 2, [("GPU-0", 6), ("GPU-1", 6)]),
        (1, 1, [("GPU-0", 12)]),
        (2, None, [("GPU-0,GPU-1", 12)]),
        (3, None, [("GPU-0,GPU-1,GPU-2", 12)]),
    ],
)
def test_lanes_share_neither_gpus_nor_cores(gpus: int, most: int | None, parts: list[tuple[str, int]]) -> None:
    known = {str(index): f"GPU-{index}" for index in range(3)}
    machine = Hardware(device="cuda", name="NVIDIA H200", cores=12, memory_gib=512, device_id="GPU-0", gpus=known)
    assert [(lane.device_id, lane.cores) for lane in machine.lanes(gpus, most)] == parts


def test_a_machine_without_gpus_is_one_lane() -> None:
    machine = Hardware(device="cpu", name="CPU", cores=2, memory_gib=8, device_id="CPU-1")
    assert machine.lanes(1) == machine.lanes(2) == (machine,)


def test_a_cpu_is_identified_by_a_hash_of_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ids = []
    for machine in ("8c1d4a5e" * 4, "8c1d4a5e" * 4, "0" * 32):
        (tmp_path / "machine-id").write_text(f"{machine}\n")
        monkeypatch.setattr(module, "MACHINE_ID", tmp_path / "machine-id")
        ids.append(probe.__wrapped__("cpu").device_id)
        assert machine[:8] not in ids[-1]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(each) == 20 and each.startswith("CPU-") for each in ids)
    (tmp_path / "machine-id").write_text("")
    assert probe.__wrapped__("cpu").device_id == ""
    (tmp_path / "machine-id").unlink()
    assert probe.__wrapped__("cpu").device_id == ""
