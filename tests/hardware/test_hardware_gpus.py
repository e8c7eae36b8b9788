"""GPUs are found by the name that the driver gives them."""

import pytest

from pipeline.hardware.gpus import GPUS, Gpu, gpu_of, named


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Server"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L20", "L20"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H20-3e", None),
        ("NVIDIA T400", None),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB PCIe"),
        ("AMD EPYC 7763", None),
    ],
)
def test_a_gpu_is_found_by_what_the_driver_calls_it(reported: str, name: str | None) -> None:
    found = gpu_of(reported)
    assert (found.name if found else None) == name


def test_every_gpu_is_found_by_its_own_names() -> None:
    assert all(gpu_of(gpu.name) is gpu and gpu_of(f"NVIDIA {gpu.driver_name}") is gpu for gpu in GPUS)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("4090", ["RTX 4090"]),
        ("RTX4090", ["RTX 4090"]),
        ("rtx-4090", ["RTX 4090"]),
        ("geforce rtx 4090", ["RTX 4090"]),
        ("NVIDIA H200", ["H200"]),
        ("a6000", ["RTX A6000"]),
        ("6000 Ada", ["RTX 6000 Ada"]),
        ("H100SXM", ["H100 SXM"]),
        ("A100 sxm", ["A100 40GB SXM", "A100 80GB SXM"]),
        ("H100", ["H100 PCIe", "H100 SXM", "H100 NVL"]),
        ("A100-80GB", ["A100 80GB PCIe", "A100 80GB SXM"]),
        ("L4", ["L4"]),
        ("A10G", ["A10G"]),
        ("A10", ["A10"]),
        ("MI300X", []),
        ("gpu", []),
    ],
)
def test_a_gpu_is_found_as_people_write_it(written: str, names: list[str]) -> None:
    assert [gpu.name for gpu in named(written)] == names


def test_every_compute_capability_with_kernels_of_its_own_has_a_gpu() -> None:
    assert {gpu.compute_capability for gpu in GPUS} >= {7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 10.3, 12.0}


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_products_are_dense_and_double_with_half_the_bits(gpu: Gpu) -> None:
    """Figures with sparsity, or of products that are summed in 16 bits, are twice as large."""
    if gpu.fp8_tflops is not None:
        assert gpu.fp8_tflops == pytest.approx(2 * gpu.bf16_tflops, rel=0.015)
    if gpu.int8_tops is not None and gpu.int8_tops != pytest.approx(2 * gpu.bf16_tflops, rel=0.015):
        # GeForce sums BF16 and FP8 in 32 bits at half of its rate.
        assert "RTX" in gpu.name and gpu.int8_tops == pytest.approx(4 * gpu.bf16_tflops, rel=0.015)
    assert (gpu.fp8_tflops is None) == (gpu.compute_capability < 8.9)
    assert (gpu.fp4_tflops is None) == (gpu.compute_capability < 10.0)
