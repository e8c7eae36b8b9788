"""Linears of a model in memory that compute as in a number format, by compressed-tensors' own functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from pipeline.models.modules import fusion_group

if TYPE_CHECKING:
    from pipeline.config import QuantSettings


@contextlib.contextmanager
def rounded(linears: Mapping[str, Any], quant: QuantSettings, largest: Mapping[str, float]) -> Iterator[None]:
    """Let Linears have weights rounded to nearest, and round their inputs as the format does while serving.

    They are the functions that llm-compressor packs with, so scales are those of a checkpoint, shared where vLLM loads
    several Linears as one.

    Args:
        linears: by name; those that vLLM loads as one together.
        quant: the format.
        largest: the largest magnitude of each Linear's inputs in the calibration, for scales of a whole tensor.
    """
    from compressed_tensors.quantization import QuantizationMetadata, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize
    from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
    from llmcompressor.modifiers.quantization.calibration import freeze_module_quantization

    from pipeline.stages.quantize.engines.llmcompressor import scheme_of

    scheme = scheme_of(quant, list(linears))
    weights = {name: linear.weight.data for name, linear in linears.items()}
    try:
        for linear in linears.values():
            initialize_module_for_quantization(linear, scheme)
        _observe(linears, largest)
        for linear in linears.values():
            freeze_module_quantization(linear)
            linear.weight.data = forward_quantize(linear, linear.weight.data, "weight", scheme.weights)
            # Only inputs are rounded from now on.
            linear.quantization_status = QuantizationStatus.COMPRESSED
        yield
    finally:
        for name, linear in linears.items():
            linear.weight.data = weights[name]
            QuantizationMetadata.clear_quantization(linear)
            vars(linear).pop("forward", None)


def _observe(linears: Mapping[str, Any], largest: Mapping[str, float]) -> None:
    """Set the scales of weights, and of inputs where they are calibrated."""
    from llmcompressor.modifiers.quantization.calibration import initialize_observer, observe, update_qparams
    from llmcompressor.observers.fusion import FusionHandler

    fused: dict[str, list[Any]] = {}
    for name, linear in linears.items():
        initialize_observer(linear, "weight")
        initialize_observer(linear, "input")
        fused.setdefault(fusion_group(name), []).append((linear.weight_observer, linear))
    for pairs in fused.values():
        if len(pairs) > 1:
            FusionHandler.fuse(pairs)
    for name, linear in linears.items():
        if hasattr(linear, "input_observer"):
            linear.input_observer(torch.full_like(linear.weight.data[:1], largest[name]))
    observe(linears.values(), "weight")
    update_qparams(linears.values(), ("weight", "input"))
