"""The surroundings of every server."""

from __future__ import annotations

import pytest

from pipeline.hardware.probe import Hardware
from pipeline.serve.launcher import settled


def machine(device: str) -> Hardware:
    return Hardware(device=device, name="Imaginary", cores=2, memory_gib=8.0)


def test_servers_of_a_gpu_share_their_triton_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_HOME", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert settled(machine("cuda"))["TRITON_CACHE_DIR"] == "/home/someone/.triton/cache"
    assert "CUDA_VISIBLE_DEVICES" not in settled(machine("cuda"))
    monkeypatch.setenv("TRITON_HOME", "/scratch")
    assert settled(machine("cuda"))["TRITON_CACHE_DIR"] == "/scratch/.triton/cache"
    monkeypatch.setenv("TRITON_CACHE_DIR", "/kernels")
    assert settled(machine("cuda"))["TRITON_CACHE_DIR"] == "/kernels"


def test_a_cpu_hides_every_gpu() -> None:
    found = settled(machine("cpu"))
    assert found["CUDA_VISIBLE_DEVICES"] == "" and "TRITON_CACHE_DIR" not in found
