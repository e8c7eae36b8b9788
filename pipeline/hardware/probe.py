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
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from pipeline.errors import ConfigError


class Hardware(BaseModel):
    """One machine or a part of it: a CPU, and GPUs of one kind if present.

    `memory_mib` is one GPU's memory as the driver reports it; `memory_gib` is rounded.
    `device_id` tells two devices of one kind apart: the GPU's UUID, of several joined by commas, on a CPU a hash of the
    machine's ID; empty if unknown.
    `gpus` are the GPUs of the first one's kind, as `CUDA_VISIBLE_DEVICES` names them, each with its UUID.
    """

    device: Literal["cpu", "cuda"]
    name: str
    cores: int
    memory_gib: float
    memory_mib: int | None = None
    cpu_features: tuple[str, ...] = ()
    compute_capability: float | None = None
    device_id: str = ""
    gpus: dict[str, str] = Field({})

    @property
    def name_of_gpus(self) -> str:
        """The GPUs by their numbers, in words."""
        return f"GPU {'+'.join(self.gpus)}"

    def lanes(self, gpus: int, most: int | None = None) -> tuple[Hardware, ...]:
        """Return the equal parts of this machine on which servers run at the same time, with their share of its cores.

        Args:
            gpus: number of GPUs of a server.
            most: number of parts at most; None for as many as there are GPUs for.
        """
        number = max(1, min(len(self.gpus) // gpus, most or len(self.gpus)))
        if len(self.gpus) < gpus:
            return (self,)
        names = list(self.gpus)
        parts = [{name: self.gpus[name] for name in names[at * gpus : (at + 1) * gpus]} for at in range(number)]
        cores = max(1, self.cores // number)
        devices = [",".join(part.values()) if all(part.values()) else "" for part in parts]
        return tuple(
            self.model_copy(update={"gpus": part, "device_id": device, "cores": cores})
            for part, device in zip(parts, devices, strict=True)
        )

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
    gpus = {} if device == "cpu" else _gpus()
    if not gpus and device == "cuda":
        raise ConfigError(
            "hardware.device=cuda: nvidia-smi finds no GPU on this machine.",
            "Leave it at auto, or ask with hardware.gpu what a GPU of the catalogue could serve.",
        )
    memory = psutil.virtual_memory().total / 2**30
    common = {
        "cores": psutil.cpu_count() or 1,
        "cpu_features": tuple(f for f in CPU_FEATURES if f in flags),
    }
    if not gpus:
        return Hardware(device="cpu", name=cpu_name, memory_gib=round(memory, 1), device_id=_cpu_id(), **common)
    first = next(iter(gpus.values()))
    return Hardware(
        device="cuda",
        name=first.name,
        memory_gib=round(first.memory_mib / 1024, 1),
        memory_mib=round(first.memory_mib),
        compute_capability=first.compute_capability,
        device_id=first.uuid,
        gpus={each: gpu.uuid for each, gpu in gpus.items()},
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


def nvidia_smi(query: str, *, gpu: str = "", every: bool = False) -> list[str]:
    """Query `nvidia-smi` for the first GPU that CUDA will use; return the lines, empty if it cannot be run.

    It lists every GPU of the machine, whatever `CUDA_VISIBLE_DEVICES` leaves to this process.

    Args:
        query: its option.
        gpu: another GPU, by its number or UUID; empty for the first.
        every: whether to ask about all GPUs of the machine.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if shutil.which("nvidia-smi") is None or first in ("", "-1"):
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", *([] if every else ["-i", gpu or first])]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA will use, as `CUDA_VISIBLE_DEVICES` names them; without it by `nvidia-smi`'s numbers.

    Both number GPUs alike where all are of one kind, or with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = named.split(",") if named is not None else nvidia_smi("--query-gpu=index", every=True) or ["0"]
    return [each.strip() for each in found]


class _Gpu(NamedTuple):
    name: str
    memory_mib: float
    compute_capability: float
    uuid: str


def _gpus() -> dict[str, _Gpu]:
    """Return the visible GPUs of the first one's kind."""
    found = dict[str, _Gpu]()
    for each in visible_gpus():
        for line in nvidia_smi("--query-gpu=name,memory.total,compute_cap,uuid", gpu=each)[:1]:
            name, memory, capability, uuid = (part.strip() for part in line.split(","))
            known = uuid if uuid.startswith(("GPU-", "MIG-")) else ""
            found[each] = _Gpu(name, float(memory), float(capability), known)
    return {each: gpu for each, gpu in found.items() if gpu.name == next(iter(found.values())).name}


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
