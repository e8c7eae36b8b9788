"""Variants that a machine cannot serve: too few GPUs, or too little memory on each; and those that it cannot time."""

from pathlib import Path

import pytest
from support.settings import variants_of

from pipeline import runner as module
from pipeline.errors import ConfigError
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import NO_SPEED
from pipeline.job import Job
from pipeline.runner import Runner


def machine(gpus: int, memory_mib: int = 143771) -> Hardware:
    known = {str(index): f"GPU-{index}" for index in range(gpus)}
    capability = 9.0 if gpus else None
    return Hardware(
        device="cuda" if gpus else "cpu", name="NVIDIA H200" if gpus else "CPU", cores=2, memory_gib=64,
        memory_mib=memory_mib if gpus else None, cpu_features=("avx512f",), compute_capability=capability,
        device_id="GPU-0", gpus=known,
    )  # fmt: skip


def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: Hardware, *words: str) -> list[Job]:
    monkeypatch.setattr(module, "probe", lambda device: there)
    given = [*words, f"outputs={tmp_path}"]
    return Runner(variants_of(*given), given).jobs


def unserved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: Hardware, *words: str) -> dict[str, str]:
    return {str(job.variant): job.unserved for job in jobs(monkeypatch, tmp_path, there, *words)}


def test_a_variant_that_takes_more_gpus_than_there_are_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ("stage=bench", "variants=[bf16,fp8_static@tp2,bf16@tp2@dp2]")
    found = unserved(monkeypatch, tmp_path, machine(gpus=2), *given)
    assert found == {
        "bf16": "",
        "fp8_static@tp2": "",
        "bf16@tp2@dp2": "it takes 2 x 2 GPUs, and 2 are here (NVIDIA H200)",
    }


def test_a_run_of_which_nothing_fits_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = "variants=[bf16@tp2,fp8_static@tp2]"
    with pytest.raises(ConfigError, match=r"^bf16@tp2, fp8_static@tp2: it takes 2 GPUs, and 1 is here"):
        unserved(monkeypatch, tmp_path, machine(gpus=1), "stage=bench", given)
    # What is quantized needs no GPU of its own.
    unserved(monkeypatch, tmp_path, machine(gpus=1), "stage=quantize", given)


def test_weights_that_do_not_fit_name_the_variant_that_divides_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ("stage=bench", "variants=[bf16,bf16@tp2,fp8_dynamic]")
    found = unserved(monkeypatch, tmp_path, machine(gpus=2, memory_mib=11), *given)
    assert found["bf16"].startswith("its weights take 0.0 GiB on each GPU, and serve.gpu_memory_utilization=0.9 leaves")
    assert found["bf16"].endswith("; bf16@tp2 has half of them on each")
    assert found["bf16@tp2"] == found["fp8_dynamic"] == ""


def test_a_model_that_an_engine_cannot_hold_is_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ["stage=quantize", "variants=[bf16,fp8_dynamic,bf16+fp8_e4m3]", f"outputs={tmp_path}"]
    for memory_mib, too_large in ((8, True), (11, False)):
        monkeypatch.setattr(module, "probe", lambda device, size=memory_mib: machine(gpus=1, memory_mib=size))
        found = {str(job.variant): job.unmade for job in Runner(variants_of(*given), given).jobs}
        assert found["bf16"] == found["bf16+fp8_e4m3"] == ""
        assert found["fp8_dynamic"].startswith("quant.engine=llmcompressor holds the whole model") is too_large


def test_on_a_cpu_each_process_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ("stage=bench", "variants=[bf16,bf16@tp2,bf16@tp4]")
    found = unserved(monkeypatch, tmp_path, machine(gpus=0), *given)
    assert found == {"bf16": "", "bf16@tp2": "", "bf16@tp4": "4 processes share its work, and this CPU has 2 cores"}


@pytest.mark.parametrize(
    ("there", "emulated"),
    [
        ({"cpu_features": ("avx2",)}, {"fp8_static", "w4a16", "bf16+fp8_e4m3"}),
        ({"cpu_features": ("avx512f",)}, {"fp8_static"}),
        ({"cpu_features": ("avx512f", "amx_fp8")}, set()),
        # Computes BF16 in FP16, by kernels of its own.
        ({"device": "cuda", "name": "Tesla T4", "compute_capability": 7.5, "memory_mib": 15360}, set()),
    ],
)
def test_what_a_machine_emulates_it_cannot_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: dict[str, object], emulated: set[str]
) -> None:
    given = ("stage=bench", "variants=[bf16,fp8_static,w4a16,bf16+fp8_e4m3]")
    found = jobs(monkeypatch, tmp_path, machine(gpus=0).model_copy(update=there), *given)
    assert {str(job.variant): job.untimed for job in found if job.untimed} == dict.fromkeys(emulated, NO_SPEED)
