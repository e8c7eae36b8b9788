"""Measured memory read bandwidth of this machine: the bound on decoding one request at a time.

A sum over an array many times larger than any cache, as STREAM does it with its own kernels (J. McCalpin, Memory
Bandwidth and Machine Balance in Current High Performance Computers, 1995). It runs in a process of its own, so that no
GPU memory stays behind: `python -m pipeline.stages.bench.memory_bandwidth cpu|cuda` prints bytes per second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache

ARRAY_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}
ROUNDS = {"cpu": 12, "cuda": 30}


@cache
def measured(device: str, python: str | None = None) -> float | None:
    """Return the bytes per second of the fastest of several reads; None if it cannot be measured.

    Args:
        device: `cpu` or `cuda`.
        python: an interpreter that has torch; None for this one.
    """
    try:
        answer = subprocess.run(
            [python or sys.executable, "-P", __file__, device], capture_output=True, text=True, timeout=120
        )
        return float(answer.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def main(device: str) -> None:
    """Measure and print."""
    import torch

    array = torch.ones(ARRAY_BYTES[device] // 4, device=device)

    def read() -> float:
        started = time.perf_counter()
        array.sum().item()
        return time.perf_counter() - started

    read()
    print(ARRAY_BYTES[device] / min(read() for _ in range(ROUNDS[device])))


if __name__ == "__main__":
    main(sys.argv[1])
