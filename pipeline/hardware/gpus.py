"""Specifications of GPUs, installed or not, for capabilities, memory and the roofline.

Products per second are dense (no sparsity), in TFLOP/s or TOP/s with accumulation in 32 bits; bandwidth in GB/s.
Sources: NVIDIA's data sheets and architecture white papers, named with each entry.

Memory is the total that NVIDIA's driver reports (`nvidia-smi --query-gpu=memory.total`), in MiB. It is not the size in
the product's name: an H200 of "141 GB" has 150.8e9 bytes, and an L4 of "24 GB" with ECC has 24.15e9. The figures of
H100 SXM and H200 are recorded in this project's results (`docs/results`, `conditions.gpu.total_mib`); the others are
those of published outputs of nvidia-smi (several for each GPU, with ECC as it is delivered; RTX 4090:
https://github.com/RLinf/RLinf/issues/255).
"""

from __future__ import annotations

import re
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Gpu(BaseModel):
    """Specification of a GPU: of the catalogue, or a user's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="display name")
    compute_capability: PositiveFloat = Field(description="CUDA's, which decides the kernels that exist for it")
    memory_mib: PositiveInt = Field(description="total memory that the driver reports, MiB")
    bandwidth_gb_s: PositiveFloat = Field(description="bandwidth of its memory, GB/s")
    bf16_tflops: PositiveFloat | None = Field(
        None, description="dense BF16 products, TFLOP/s; of FP16 below compute capability 8.0; null: not known"
    )
    fp8_tflops: PositiveFloat | None = Field(None, description="dense FP8 products, TFLOP/s; null: none")
    int8_tops: PositiveFloat | None = Field(
        None, description="dense INT8 products, TOP/s; null: vLLM's kernels have none or next to none"
    )
    fp4_tflops: PositiveFloat | None = Field(None, description="dense FP4 products, TFLOP/s; null: none")
    source: str = Field("as given in the settings", description="data sheet or white paper")
    driver_name: str = Field("", description="end of the name that NVIDIA's driver reports")

    @property
    def key(self) -> str:
        """Name in settings, which also accept `name`, if it is of the catalogue."""
        return self.name.lower().replace(" ", "_")


GPUS = (
    Gpu(
        name="T4",
        compute_capability=7.5,
        memory_mib=15_360,
        bandwidth_gb_s=320,
        bf16_tflops=65,
        int8_tops=130,
        source="T4 data sheet, 2019",
        driver_name="T4",
    ),
    Gpu(
        name="RTX 3090",
        compute_capability=8.6,
        memory_mib=24_576,
        bandwidth_gb_s=936,
        bf16_tflops=71,
        int8_tops=284,
        source="Ampere GA102 white paper, 2021, table 9",
        driver_name="RTX 3090",
    ),
    Gpu(
        name="A10",
        compute_capability=8.6,
        memory_mib=23_028,
        bandwidth_gb_s=600,
        bf16_tflops=125,
        int8_tops=250,
        source="A10 data sheet, 2022",
        driver_name="A10",
    ),
    Gpu(
        name="A10G",
        compute_capability=8.6,
        memory_mib=23_028,
        bandwidth_gb_s=600,
        bf16_tflops=70,
        int8_tops=140,
        source="A10G data sheet, 2021",
        driver_name="A10G",
    ),
    Gpu(
        name="A40",
        compute_capability=8.6,
        memory_mib=46_068,
        bandwidth_gb_s=696,
        bf16_tflops=149.7,
        int8_tops=299.3,
        source="A40 data sheet, 2022",
        driver_name="A40",
    ),
    Gpu(
        name="RTX A6000",
        compute_capability=8.6,
        memory_mib=49_140,
        bandwidth_gb_s=768,
        bf16_tflops=154.8,
        int8_tops=309.7,
        source="Ampere GA102 white paper, 2021, table 10",
        driver_name="RTX A6000",
    ),
    Gpu(
        name="RTX 4090",
        compute_capability=8.9,
        memory_mib=24_564,
        bandwidth_gb_s=1008,
        bf16_tflops=165.2,
        fp8_tflops=330.3,
        int8_tops=660.6,
        source="Ada white paper, 2023, appendix A",
        driver_name="RTX 4090",
    ),
    Gpu(
        name="L4",
        compute_capability=8.9,
        memory_mib=23_034,
        bandwidth_gb_s=300,
        bf16_tflops=121,
        fp8_tflops=242.5,
        int8_tops=242.5,
        source="L4 data sheet, 2023",
        driver_name="L4",
    ),
    Gpu(
        name="L20",
        compute_capability=8.9,
        memory_mib=46_068,
        bandwidth_gb_s=864,
        bf16_tflops=119.5,
        fp8_tflops=239,
        int8_tops=239,
        source="L20 data sheet, 2023",
        driver_name="L20",
    ),
    Gpu(
        name="L40",
        compute_capability=8.9,
        memory_mib=46_068,
        bandwidth_gb_s=864,
        bf16_tflops=181.05,
        fp8_tflops=362,
        int8_tops=362,
        source="L40 data sheet, 2023",
        driver_name="L40",
    ),
    Gpu(
        name="L40S",
        compute_capability=8.9,
        memory_mib=46_068,
        bandwidth_gb_s=864,
        bf16_tflops=362.1,
        fp8_tflops=733,
        int8_tops=733,
        source="L40S data sheet, 2023",
        driver_name="L40S",
    ),
    Gpu(
        name="RTX 6000 Ada",
        compute_capability=8.9,
        memory_mib=49_140,
        bandwidth_gb_s=960,
        bf16_tflops=364.2,
        fp8_tflops=728.5,
        int8_tops=728.5,
        source="Ada professional white paper, 2023",
        driver_name="RTX 6000 Ada Generation",
    ),
    Gpu(
        name="A100 40GB PCIe",
        compute_capability=8.0,
        memory_mib=40_960,
        bandwidth_gb_s=1555,
        bf16_tflops=312,
        int8_tops=624,
        source="A100 data sheet, 2021",
        driver_name="A100-PCIE-40GB",
    ),
    Gpu(
        name="A100 40GB SXM",
        compute_capability=8.0,
        memory_mib=40_960,
        bandwidth_gb_s=1555,
        bf16_tflops=312,
        int8_tops=624,
        source="A100 data sheet, 2021",
        driver_name="A100-SXM4-40GB",
    ),
    Gpu(
        name="A100 80GB PCIe",
        compute_capability=8.0,
        memory_mib=81_920,
        bandwidth_gb_s=1935,
        bf16_tflops=312,
        int8_tops=624,
        source="A100 data sheet, 2022",
        driver_name="A100 80GB PCIe",
    ),
    Gpu(
        name="A100 80GB SXM",
        compute_capability=8.0,
        memory_mib=81_920,
        bandwidth_gb_s=2039,
        bf16_tflops=312,
        int8_tops=624,
        source="A100 data sheet, 2022",
        driver_name="A100-SXM4-80GB",
    ),
    Gpu(
        name="H100 PCIe",
        compute_capability=9.0,
        memory_mib=81_559,
        bandwidth_gb_s=2000,
        bf16_tflops=756,
        fp8_tflops=1513,
        int8_tops=1513,
        source="H100 data sheet, 2023",
        driver_name="H100 PCIe",
    ),
    Gpu(
        name="H100 SXM",
        compute_capability=9.0,
        memory_mib=81_559,
        bandwidth_gb_s=3350,
        bf16_tflops=989.4,
        fp8_tflops=1978.9,
        int8_tops=1978.9,
        source="H100 data sheet, 2023",
        driver_name="H100 80GB HBM3",
    ),
    Gpu(
        name="H100 NVL",
        compute_capability=9.0,
        memory_mib=95_830,
        bandwidth_gb_s=3938,
        bf16_tflops=835.5,
        fp8_tflops=1670.5,
        int8_tops=1670.5,
        source="H100 NVL data sheet, 2024",
        driver_name="H100 NVL",
    ),
    Gpu(
        name="H20",
        compute_capability=9.0,
        memory_mib=97_871,
        bandwidth_gb_s=4000,
        bf16_tflops=148,
        fp8_tflops=296,
        int8_tops=296,
        source="H20 data sheet, 2023",
        driver_name="H20",
    ),
    Gpu(
        name="H200",
        compute_capability=9.0,
        memory_mib=143_771,
        bandwidth_gb_s=4800,
        bf16_tflops=989.4,
        fp8_tflops=1978.9,
        int8_tops=1978.9,
        source="H200 data sheet, 2024",
        driver_name="H200",
    ),
    Gpu(
        name="B200",
        compute_capability=10.0,
        memory_mib=183_359,
        bandwidth_gb_s=7700,
        bf16_tflops=2250,
        fp8_tflops=4500,
        fp4_tflops=9000,
        source="HGX B200 data sheet, 2025",
        driver_name="B200",
    ),
    # 144 PFLOP/s of FP8 and FP4 for the eight GPUs of an HGX are sparse; 108 PFLOP/s of FP4 are dense.
    Gpu(
        name="B300",
        compute_capability=10.3,
        memory_mib=275_040,
        bandwidth_gb_s=8000,
        bf16_tflops=2250,
        fp8_tflops=4500,
        fp4_tflops=13_500,
        source="HGX B300 data sheet, 2025",
        driver_name="B300 SXM6 AC",
    ),
    Gpu(
        name="RTX 5090",
        compute_capability=12.0,
        memory_mib=32_607,
        bandwidth_gb_s=1792,
        bf16_tflops=209.5,
        fp8_tflops=419,
        int8_tops=838,
        fp4_tflops=1676,
        source="RTX Blackwell white paper, 2025, appendix A",
        driver_name="RTX 5090",
    ),
    Gpu(
        name="RTX PRO 6000",
        compute_capability=12.0,
        memory_mib=97_887,
        bandwidth_gb_s=1792,
        bf16_tflops=503.8,
        fp8_tflops=1007.6,
        int8_tops=1007.6,
        fp4_tflops=2015.2,
        source="RTX Blackwell PRO white paper, 2025",
        driver_name="RTX PRO 6000 Blackwell Workstation Edition",
    ),
    # The data sheet rounds to 1, 2 and 4 PFLOP/s with sparsity; 120 TFLOP/s of FP32 are a quarter of BF16's.
    Gpu(
        name="RTX PRO 6000 Server",
        compute_capability=12.0,
        memory_mib=97_887,
        bandwidth_gb_s=1597,
        bf16_tflops=480,
        fp8_tflops=960,
        int8_tops=960,
        fp4_tflops=1920,
        source="RTX PRO 6000 Server Edition data sheet, 2025",
        driver_name="RTX PRO 6000 Blackwell Server Edition",
    ),
)


def gpu_of(name: str) -> Gpu | None:
    """Return the GPU with this name of the driver or the settings; None if the catalogue lacks it."""
    for gpu in GPUS:
        if name in (gpu.name, gpu.key) or f" {name}".endswith(f" {gpu.driver_name}"):
            return gpu
    return None


def named(name: str) -> list[Gpu]:
    """Return the GPUs that a person may mean: that of this name, else those with all words of it in theirs."""
    if gpu := gpu_of(name):
        return [gpu]
    written = _letters(name)
    same = [gpu for gpu in GPUS if written in (_letters(gpu.name), _letters(gpu.driver_name))]
    words = set(re.findall(r"[a-z]+\d*[a-z]*|\d+[a-z]*", _without_maker(name)))
    return same or [gpu for gpu in GPUS if words and all(_has(gpu, word) for word in words)]


def _has(gpu: Gpu, word: str) -> bool:
    """Return whether a word, as `4090`, `rtx4090` or `a100`, is of a GPU's name."""
    parts = _without_maker(gpu.name).split()
    return word in parts or word in (a + b for a, b in pairwise(parts))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _without_maker(name))


def _without_maker(name: str) -> str:
    return re.sub(r"\b(nvidia|geforce|tesla)\b|[-_]", " ", name.lower()).strip()
