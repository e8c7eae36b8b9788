"""Machines that tests judge by, whatever runs them."""

from pipeline.hardware.probe import Hardware

# As most servers have: with vLLM's kernels for INT8, INT4 and an FP8 KV cache; FP8 products are emulated.
SERVER_CPU = Hardware(
    device="cpu", name="a CPU", cores=2, memory_gib=8, cpu_features=("avx2", "avx512f", "avx512_vnni")
)
