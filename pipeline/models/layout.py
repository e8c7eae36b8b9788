"""Tensors that each scheme stores for a BF16 checkpoint: their types, shapes and sizes.

Only the scheme and the shapes of the BF16 tensors are used, so the size is known before quantization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.config import QuantSettings
from pipeline.errors import UnknownFormat
from pipeline.formats.blocks import BLOCKS, Mixture
from pipeline.formats.layouts import Shape, Stored
from pipeline.models.modules import decoder_linears, matched

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}


def stored(original: Stored, config: Mapping[str, Any], quant: QuantSettings) -> dict[str, tuple[str, Shape]]:
    """Return the type (llama.cpp's for GGUF) and shape of every tensor that a scheme stores.

    Raises:
        UnknownFormat: if others made the checkpoint, in a format that is not known.
    """
    original = dict(original)
    if quant.scheme is not None and config.get("tie_word_embeddings") and quant.engine != "autogptq":
        original.pop("lm_head.weight", None)  # stored once, even if the BF16 checkpoint stores it twice
    if quant.engine == "none":
        return original
    if quant.format is None and not quant.is_mixed:
        raise UnknownFormat(f"how {quant.title} stores weights")
    if quant.format is not None and quant.format.mixture is not None:
        return _blocks(original, int(config["num_hidden_layers"]), quant.format.mixture)
    found: dict[str, tuple[str, Shape]] = {}
    modules = quantized(original, config, quant)
    for name, each in original.items():
        module = name.removesuffix(".weight")
        if module in modules:
            found |= {f"{module}.{part}": own for part, own in fields(each[1], quant.of(module)).items()}
        else:
            found[name] = each
    return found


def fields(shape: Shape, quant: QuantSettings) -> Stored:
    """Return type and shape of the tensors that a format stores for a weight of a shape, by their own names.

    Raises:
        UnknownFormat: if that is not known.
    """
    if quant.format is None or quant.layout is None:
        raise UnknownFormat(f"how {quant.title} stores weights")
    packing = quant.format.packing(quant.effective_group_size, nested=quant.double_quant)
    return quant.layout.fields(shape, packing)


def bytes_of(tensors: Stored) -> dict[str, int]:
    """Return the bytes of each tensor."""
    found = {}
    for name, (kind, shape) in tensors.items():
        block = BLOCKS.get(kind)
        weights, size = (1, BYTES[kind]) if block is None else (block.weights, block.bytes)
        found[name] = math.prod(shape) // weights * size
    return found


def quantized(original: Stored, config: Mapping[str, Any], quant: QuantSettings) -> set[str]:
    """Return the modules that the scheme quantizes: every Linear of the decoder that is not ignored."""
    if quant.scheme is None:
        return set()
    linears = decoder_linears(original, config)
    return set(linears) - set(matched(linears, quant.ignore))


def _blocks(original: Stored, layers: int, mixture: Mixture) -> dict[str, tuple[str, Shape]]:
    """Return llama.cpp's mixtures: `llama_tensor_get_type` for dense decoders, and norms in float32."""
    tied = "lm_head.weight" not in original

    def kind(name: str, shape: Shape) -> str:
        if len(shape) == 1:
            return "F32"
        return mixture("lm_head.weight" if tied and "embed_tokens" in name else name, layers)

    return {name: (kind(name, shape), shape) for name, (_, shape) in original.items()}
