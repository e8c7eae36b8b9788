"""Rounding of activations as formats do it while serving, on the inputs of a Linear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.formats.elements import E4M3, INT8

if TYPE_CHECKING:
    import torch

    from pipeline.models.headers import Quantization, SchemeConfig


def activation_scheme(config: Quantization) -> SchemeConfig | None:
    """Return the compressed-tensors scheme of a checkpoint's activations; None if they are not quantized."""
    for group in (config.get("config_groups") or {}).values():
        return group.get("input_activations") or None
    return None


def is_known(scheme: SchemeConfig) -> bool:
    """Return whether `rounded_inputs` covers this scheme: eight bits, symmetric, a scale per tensor or per token."""
    strategy = "token" if scheme.get("dynamic") else "tensor"
    return int(scheme["num_bits"]) == 8 and bool(scheme.get("symmetric", True)) and scheme["strategy"] == strategy


def rounded_inputs(x: torch.Tensor, scheme: SchemeConfig, static: torch.Tensor | None) -> torch.Tensor:
    """Round activations of shape (tokens, in) as the format does: by the static scale, else by one per token."""
    import torch

    kind = scheme["type"]
    largest = (E4M3 if kind == "float" else INT8).largest
    scale = x.abs().amax(1, keepdim=True) / largest if static is None else static
    scaled = x / scale.clamp_min(1e-30)
    if kind == "float":
        return scaled.clamp(-largest, largest).to(torch.float8_e4m3fn).float() * scale
    return scaled.round().clamp(-largest - 1, largest) * scale
