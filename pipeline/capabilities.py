"""What can be served where: each number format on each kind of hardware, decided before work starts.

Written down from vLLM's sources (the kernels' `is_supported`, the quantization methods' `get_min_capability`, the
attention backends) for the release named below, and held against reality by tests that serve what is said to be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.config import QuantSettings, Settings

VLLM = "0.32"
Support = Literal["native", "emulated", "no"]


class Machine(Protocol):
    """What decides: a GPU's compute capability, or a CPU's features."""

    @property
    def name(self) -> str:
        """As people call it."""

    @property
    def compute_capability(self) -> float | None:
        """None for a CPU."""


@dataclass(frozen=True)
class Capability:
    """What one machine can do with one format.

    Attributes:
        support: `native` kernels, `emulated` (right numbers, no claim on speed), or `no`.
        by: the kernel that is expected, or how it is emulated.
        reason: why not, or what to know.
    """

    support: Support
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Rule:
    """From this compute capability on; the first rule that fits decides."""

    since: float
    capability: Capability


def _native(since: float, by: str, reason: str = "") -> Rule:
    return Rule(since, Capability("native", by, reason))


_MARLIN_ONLY = "weights only: products are in 16 bits"
_FP8 = (_native(8.9, "CUTLASS"), _native(7.5, "Marlin", f"{_MARLIN_ONLY}; FP8 products need 8.9"))
_INT8 = (
    Rule(10.0, Capability("no", reason="vLLM's CUTLASS kernels have no INT8 products for Blackwell: use FP8")),
    _native(7.5, "CUTLASS"),
)
# Machete is built for Hopper alone.
_WNA16 = (_native(10.0, "Marlin"), _native(9.0, "Machete or Marlin"), _native(7.5, "Marlin"))
_GPTQ = (*_WNA16, _native(6.0, "ExLlama"))
_CUDA: dict[str, tuple[Rule, ...]] = {
    "FP8": _FP8,
    "FP8_DYNAMIC": _FP8,
    "W8A8": _INT8,
    "W8A8_STATIC": _INT8,
    "W4A16": _WNA16,
    "W4A16_ASYM": _WNA16,
    "W8A16": _WNA16,
    "NF4": (_native(7.0, "bitsandbytes"),),
    "LLM_INT8": (_native(7.5, "bitsandbytes"),),
    "Q4_K_M": (_native(6.0, "GGUF"),),
    "Q8_0": (_native(6.0, "GGUF"),),
    "NVFP4": (_native(10.0, "CUTLASS FP4"), _native(7.5, "Marlin", f"{_MARLIN_ONLY}; FP4 products need 10.0")),
    "MXFP4": (_native(10.0, "FlashInfer"), _native(8.0, "Marlin", f"{_MARLIN_ONLY}; FP4 products need 10.0")),
}
_NEEDS = {scheme: min(rule.since for rule in rules) for scheme, rules in _CUDA.items()}
# CPU features of which one is enough for vLLM's own kernel; empty: it has none.
_CPU_KERNELS: dict[str, tuple[tuple[str, ...], str]] = {
    "FP8": (("amx_bf16",), "CPUFP8W8A8"),
    "FP8_DYNAMIC": (("amx_bf16",), "CPUFP8W8A8"),
    "W8A8": (("avx512_vnni", "amx_int8"), "oneDNN"),
    "W8A8_STATIC": (("avx512_vnni", "amx_int8"), "oneDNN"),
    "W4A16": (("avx512f",), "CPUWNA16"),
    "W4A16_ASYM": (("avx512f",), "CPUWNA16"),
}
_CPU_EMULATED = (*_CPU_KERNELS, "W8A16", "Q4_K_M", "Q8_0")
_CPU_PLUGINS = {"NF4": "bitsandbytes", "LLM_INT8": "bitsandbytes"}
_CPU_KV_CACHE = ("avx512f", "amx_bf16")


def of_scheme(scheme: str | None, machine: Machine, engine: str = "") -> Capability:
    """What a machine can do with a number format.

    Args:
        scheme: a key of `schemes.SCHEMES`, or None for BF16.
        machine: a GPU, or this machine.
        engine: GPTQModel's and auto-gptq's own format has kernels for older GPUs.
    """
    capability = machine.compute_capability
    if scheme is None:
        return Capability("native", "BF16") if capability is None or capability >= 8.0 else _no_bf16(capability)
    if capability is None:
        return _on_cpu(scheme, getattr(machine, "cpu_features", ()))
    rules = _GPTQ if engine in ("gptqmodel", "autogptq") else _CUDA.get(scheme, ())
    for rule in rules:
        if capability >= rule.since:
            return rule.capability
    needed = min((rule.since for rule in rules), default=0.0)
    return Capability("no", reason=f"{scheme} needs compute capability {needed}, {machine.name} has {capability}")


def of_kv_cache(dtype: str, machine: Machine) -> Capability:
    """What a machine can do with a format of the KV cache."""
    capability = machine.compute_capability
    if dtype == "auto":
        return Capability("native", "16 bits")
    if capability is None:
        if set(_CPU_KV_CACHE) & set(getattr(machine, "cpu_features", ())):
            return Capability("native", "CPU attention")
        return Capability("emulated", "FP8 values in a 16-bit cache", "saves no memory here")
    if capability >= 8.9:
        return Capability("native", "FlashAttention 3 or FlashInfer" if capability >= 9.0 else "Triton or FlashInfer")
    return Capability("no", reason=f"an FP8 KV cache needs compute capability 8.9, {machine.name} has {capability}")


def of_settings(settings: Settings, machine: Machine) -> Capability:
    """What a machine can do with a variant: the weaker of its weights and its KV cache."""
    return weaker(of_quant(settings.quant, machine), of_kv_cache(settings.kv_cache.dtype, machine))


def of_quant(quant: QuantSettings, machine: Machine) -> Capability:
    """What a machine can do with a weight format as its engine writes it."""
    return of_scheme(quant.scheme, machine, quant.engine)


def weaker(one: Capability, other: Capability) -> Capability:
    """The one that limits."""
    order: tuple[Support, ...] = ("no", "emulated", "native")
    return min(one, other, key=lambda capability: order.index(capability.support))


def _no_bf16(capability: float) -> Capability:
    return Capability("emulated", "FP16", f"BF16 products need compute capability 8.0, not {capability}")


def _on_cpu(scheme: str, features: tuple[str, ...]) -> Capability:
    if scheme in _CPU_PLUGINS:
        return Capability("native", _CPU_PLUGINS[scheme], "its own CPU code unpacks on every pass")
    wanted, kernel = _CPU_KERNELS.get(scheme, ((), ""))
    if set(wanted) & set(features):
        return Capability("native", kernel)
    if scheme in _CPU_EMULATED:
        missing = f"vLLM's own kernel needs {' or '.join(wanted)}" if wanted else "vLLM has no CPU kernel for it"
        return Capability("emulated", "this project's vLLM plugin", missing)
    return Capability("no", reason=f"{scheme} is served on NVIDIA GPUs from compute capability {_NEEDS[scheme]} on")
