"""The catalogue decides which GPUs there are."""

import pytest
from support.settings import command_of

from pipeline.config import validate
from pipeline.errors import ConfigError
from pipeline.hardware.gpus import Gpu


def test_a_gpu_has_one_name_however_it_is_written_and_others_are_refused(compose, settings) -> None:
    assert [gpu.name for gpu in settings("report.what_if=[h100_sxm, L40S]").report.what_if] == ["H100 SXM", "L40S"]
    assert settings("hardware.gpu=h100_sxm").hardware.gpu.name == "H100 SXM"
    with pytest.raises(ConfigError, match=r"report.what_if: H100 is several GPUs: .*h100_sxm"):
        validate(compose("report.what_if=[H100]"))
    with pytest.raises(ConfigError, match=r"report.what_if: H1000 is unknown .*known are t4, "):
        validate(compose("report.what_if=[H1000]"))


OWN = "{name: RTX 4080, compute_capability: 8.9, memory_mib: 16376, bandwidth_gb_s: 717"


def test_a_gpu_of_ones_own_is_a_mapping() -> None:
    asked = (f"hardware.gpu={OWN}}}", f"report.what_if=[H200,{OWN}, bf16_tflops: 97.5}}]", "stage=capabilities")
    (found,) = command_of(*asked)
    assert found.hardware.gpu == Gpu(name="RTX 4080", compute_capability=8.9, memory_mib=16376, bandwidth_gb_s=717)
    assert [(gpu.name, gpu.bf16_tflops) for gpu in found.report.what_if] == [("H200", 989.4), ("RTX 4080", 97.5)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"hardware.gpu={OWN}, bandwith: 1}}", "no setting hardware.gpu.bandwith; did you mean"),
        (f"report.what_if=[{OWN}, fp8: 1}}]", "no setting report.what_if.fp8; did you mean"),
        ("hardware.gpu={name: RTX 4080}", "hardware.gpu.memory_mib is not set (total memory that the driver reports"),
        ("report.constraints.hardware=RTX 4080", "RTX 4080 is unknown"),
        ("hardware.gpu=MI300X", "One that is not listed is {name: ..., compute_capability: ..."),
    ],
)
def test_a_gpu_of_ones_own_is_checked(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        command_of(word, "stage=capabilities")
    assert said in str(refused.value)
