"""Hardware of this machine, determined without torch. `gpus.py` describes GPUs that need not be installed."""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pipeline.errors import ConfigError


class Hardware(BaseModel):
    """One machine: a CPU, and one GPU if present.

    `memory_mib` is a GPU's memory as the driver reports it; `memory_gib` is rounded.
    `device_id` tells two devices of one kind apart: the GPU's UUID, on a CPU a hash of the machine's ID; empty if
    unknown.
    """

    device: Literal["cpu", "cuda"]
    name: str
    cores: int
    memory_gib: float
    memory_mib: int | None = None
    cpu_features: tuple[str, ...] = ()
    compute_capability: float | None = None
    device_id: str = ""

    @property
    def has_native_bf16(self) -> bool:
        """True if BF16 products run in hardware (else they are many times slower than float32 in torch)."""
        if self.device == "cuda":
            return (self.compute_capability or 0) >= 8.0
        return bool({"avx512_bf16", "amx_bf16"} & set(self.cpu_features))


# Vector extensions that determine the formats vLLM's CPU back end serves.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "amx_fp8")


@cache
def probe(device: Literal["auto", "cpu", "cuda"] = "auto") -> Hardware:
    """Detect this machine's hardware, within milliseconds.

    Args:
        device: `cpu` ignores a GPU, `cuda` requires one.

    Raises:
        ConfigError: if a GPU is required and there is none.
    """
    import psutil

    flags, cpu_name = _cpu()
    gpu = None if device == "cpu" else _gpu()
    if gpu is None and device == "cuda":
        raise ConfigError(
            "hardware.device=cuda: nvidia-smi finds no GPU on this machine.",
            "Leave it at auto, or ask with hardware.gpu what a GPU of the catalogue could serve.",
        )
    memory = psutil.virtual_memory().total / 2**30
    common = {
        "cores": psutil.cpu_count() or 1,
        "cpu_features": tuple(f for f in CPU_FEATURES if f in flags),
    }
    if gpu is None:
        return Hardware(device="cpu", name=cpu_name, memory_gib=round(memory, 1), device_id=_cpu_id(), **common)
    name, mebibytes, capability, uuid = gpu
    return Hardware(
        device="cuda",
        name=name,
        memory_gib=round(mebibytes / 1024, 1),
        memory_mib=round(mebibytes),
        compute_capability=capability,
        device_id=uuid,
        **common,
    )


def _cpu() -> tuple[set[str], str]:
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return set(fields.get("flags", "").split()), fields.get("model name") or platform.machine()


def nvidia_smi(query: str, *, every: bool = False) -> list[str]:
    """Query `nvidia-smi` for the GPU that CUDA will use; return the lines, empty if it cannot be run.

    It lists every GPU of the machine, whatever `CUDA_VISIBLE_DEVICES` leaves to this process.

    Args:
        query: its option.
        every: whether to ask about all GPUs of the machine.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if shutil.which("nvidia-smi") is None or first in ("", "-1"):
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", *([] if every else ["-i", first])]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def _gpu() -> tuple[str, float, float, str] | None:
    lines = nvidia_smi("--query-gpu=name,memory.total,compute_cap,uuid")
    if not lines:
        return None
    name, memory, capability, uuid = (part.strip() for part in lines[0].split(","))
    return name, float(memory), float(capability), uuid if uuid.startswith(("GPU-", "MIG-")) else ""


# The ID itself must stay on the machine: machine-id(5) asks for a keyed hash with a key of the application.
MACHINE_ID = Path("/etc/machine-id")
MACHINE_ID_KEY = b"quantization-pipeline device"


def _cpu_id() -> str:
    """Return a hash of the machine's ID, by which the ID cannot be found; empty without one, as in a container."""
    try:
        machine = MACHINE_ID.read_bytes().strip()
    except OSError:
        return ""
    return f"CPU-{hmac.new(MACHINE_ID_KEY, machine, hashlib.sha256).hexdigest()[:16]}" if machine else ""
