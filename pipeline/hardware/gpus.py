"""Data-sheet specifications of GPUs, installed or not, for capabilities and the roofline.

Products per second are dense (no sparsity), in TFLOP/s or TOP/s with accumulation in 32 bits; bandwidth in GB/s, memory
in GB (10^9 bytes). Sources: NVIDIA's data sheets and architecture white papers, named with each entry.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Specification of a GPU.

    Attributes:
        name: display name.
        compute_capability: CUDA's, which decides the kernels that exist for it.
        memory_gb: memory of the card.
        bandwidth_gb_s: bandwidth of its memory.
        bf16_tflops: BF16 products.
        fp8_tflops: FP8 products; None where it has none.
        int8_tops: INT8 products; None where vLLM's builds have none for it.
        fp4_tflops: FP4 products; None where it has none.
        source: the data sheet or white paper.
        driver_name: end of the name that NVIDIA's driver reports.
    """

    name: str
    compute_capability: float
    memory_gb: float
    bandwidth_gb_s: float
    bf16_tflops: float
    fp8_tflops: float | None
    int8_tops: float | None
    fp4_tflops: float | None
    source: str
    driver_name: str

    @property
    def key(self) -> str:
        """Name in settings, which also accept `name`."""
        return self.name.lower().replace(" ", "_")


GPUS = (
    Gpu("RTX 4090", 8.9, 24, 1008, 165.2, 330.3, 660.6, None, "Ada white paper, 2023, appendix A", "RTX 4090"),
    Gpu("L4", 8.9, 24, 300, 121, 242.5, 242.5, None, "L4 data sheet, 2023", "L4"),
    Gpu("L40S", 8.9, 48, 864, 362.1, 733, 733, None, "L40S data sheet, 2023", "L40S"),
    Gpu("A100 80GB PCIe", 8.0, 80, 1935, 312, None, 624, None, "A100 data sheet, 2022", "A100 80GB PCIe"),
    Gpu("A100 80GB SXM", 8.0, 80, 2039, 312, None, 624, None, "A100 data sheet, 2022", "A100-SXM4-80GB"),
    Gpu("H100 PCIe", 9.0, 80, 2000, 756, 1513, 1513, None, "H100 data sheet, 2023", "H100 PCIe"),
    Gpu("H100 SXM", 9.0, 80, 3350, 989.4, 1978.9, 1978.9, None, "H100 data sheet, 2023", "H100 80GB HBM3"),
    Gpu("H200", 9.0, 141, 4800, 989.4, 1978.9, 1978.9, None, "H200 data sheet, 2024", "H200"),
    Gpu("B200", 10.0, 180, 7700, 2250, 4500, None, 9000, "HGX B200 data sheet, 2025", "B200"),
)


def gpu_of(name: str) -> Gpu | None:
    """Return the GPU with this name of the driver or the settings; None if the catalogue lacks it."""
    for gpu in GPUS:
        if name in (gpu.name, gpu.key) or f" {name}".endswith(f" {gpu.driver_name}"):
            return gpu
    return None
