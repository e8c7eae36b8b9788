"""GPUs are found by the name that the driver gives them."""

import pytest

from pipeline.hardware.gpus import GPUS, gpu_of


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("AMD EPYC 7763", None),
    ],
)
def test_a_gpu_is_found_by_what_the_driver_calls_it(reported: str, name: str | None) -> None:
    found = gpu_of(reported)
    assert (found.name if found else None) == name


def test_every_gpu_is_found_by_its_own_names() -> None:
    assert all(gpu_of(gpu.name) is gpu and gpu_of(f"NVIDIA {gpu.driver_name}") is gpu for gpu in GPUS)
