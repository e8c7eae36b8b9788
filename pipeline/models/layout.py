"""What each scheme stores of a BF16 checkpoint: its tensors with their types and shapes, and what they weigh.

From the scheme and the shapes of the BF16 tensors alone, so that a checkpoint can be weighed before it is made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.config import QuantSettings

Shape = tuple[int, ...]
# The type as safetensors calls it (llama.cpp for its blocks), and the shape.
Stored = Mapping[str, tuple[str, Shape]]
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
# Bytes of a block and the weights in it (llama.cpp, ggml-common.h).
BLOCKS = {"Q8_0": (34, 32), "Q4_K": (144, 256), "Q6_K": (210, 256)}
# bitsandbytes' double quantization: scales that share one.
NESTED_BLOCK = 256


def stored(original: Stored, config: Mapping[str, Any], quant: QuantSettings) -> dict[str, tuple[str, Shape]]:
    """Every tensor that a scheme makes of a BF16 checkpoint's: its type (llama.cpp's for GGUF) and shape."""
    original = dict(original)
    if quant.scheme is not None and config.get("tie_word_embeddings") and quant.engine != "autogptq":
        original.pop("lm_head.weight", None)  # stored once, however the BF16 checkpoint does it
    if quant.engine == "gguf":
        return _gguf(original, int(config["num_hidden_layers"]), str(quant.scheme))
    found: dict[str, tuple[str, Shape]] = {}
    modules = quantized(original, quant)
    for name, each in original.items():
        module = name.removesuffix(".weight")
        if module in modules:
            found |= {f"{module}.{part}": own for part, own in _tensors(each[1], quant).items()}
        else:
            found[name] = each
    return found


def bytes_of(tensors: Stored) -> dict[str, int]:
    """The bytes of each tensor."""
    found = {}
    for name, (kind, shape) in tensors.items():
        size, weights = BLOCKS[kind] if kind in BLOCKS else (BYTES[kind], 1)
        found[name] = math.prod(shape) // weights * size
    return found


def quantized(names: Iterable[str], quant: QuantSettings) -> set[str]:
    """The modules whose weights the scheme rounds: every Linear of the decoder that is not left out."""
    if quant.scheme is None:
        return set()
    linears = [name.removesuffix(".weight") for name in names if re.search(r"\.layers\..*_proj\.weight$", name)]
    return set(linears) - set(ignored(linears, quant.ignore))


def _tensors(shape: Shape, quant: QuantSettings) -> Stored:
    """What is stored of one weight of shape (out, in)."""
    if quant.engine == "llmcompressor":
        return _compressed_tensors(shape, quant)
    if quant.engine == "bitsandbytes":
        return _bitsandbytes(shape, quant)
    out, width = shape
    groups, integers = width // int(quant.effective_group_size or width), 32 // int(quant.bits or 4)
    zeros, scales = ("I32", (groups, out // integers)), ("F16", (groups, out))
    if quant.scheme == "W4A16_ASYM":
        return {"qweight": ("I32", (width, out // integers)), "qzeros": zeros, "scales": scales}
    own = {"qweight": ("I32", (width // integers, out)), "qzeros": zeros, "scales": scales}
    return own | {"g_idx": ("I32", (width,))}


def _compressed_tensors(shape: Shape, quant: QuantSettings) -> Stored:
    out, width = shape
    groups = width // int(quant.effective_group_size or width)
    scheme = str(quant.scheme)
    if scheme in ("NVFP4", "MXFP4"):
        packed = ("U8", (out, width // 2))
        if scheme == "MXFP4":
            return {"weight_packed": packed, "weight_scale": ("U8", (out, groups))}
        divisors: Stored = {"weight_global_scale": ("F32", (1,)), "input_global_scale": ("F32", (1,))}
        return {"weight_packed": packed, "weight_scale": ("F8_E4M3", (out, groups)), **divisors}
    if scheme in ("W4A16", "W4A16_ASYM", "W8A16"):
        integers = 32 // int(quant.bits or 4)
        own: dict[str, tuple[str, Shape]] = {
            "weight_packed": ("I32", (out, -(-width // integers))),
            "weight_scale": ("BF16", (out, groups)),
            "weight_shape": ("I64", (2,)),
        }
        if scheme == "W4A16_ASYM":
            own["weight_zero_point"] = ("I32", (-(-out // integers), groups))
        return own
    kind = "F8_E4M3" if scheme.startswith("FP8") else "I8"
    scale: Shape = (1,) if scheme == "FP8" else (out, 1)
    static: Stored = {"input_scale": ("BF16", (1,))} if quant.static_activations else {}
    return {"weight": (kind, shape), "weight_scale": ("BF16", scale), **static}


def _bitsandbytes(shape: Shape, quant: QuantSettings) -> Stored:
    out, width = shape
    if quant.scheme == "LLM_INT8":
        return {"weight": ("I8", shape), "SCB": ("F32", (out,)), "weight_format": ("U8", ())}
    blocks = -(-out * width // int(quant.effective_group_size or 64))
    own: dict[str, tuple[str, Shape]] = {
        "weight": ("U8", (-(-out * width // 2), 1)),
        "weight.absmax": ("U8" if quant.double_quant else "F32", (blocks,)),
        "weight.quant_map": ("F32", (16,)),
        # A line of JSON: the block size, the type and the shape.
        "weight.quant_state.bitsandbytes__nf4": ("U8", (_state_bytes(shape, quant),)),
    }
    if quant.double_quant:
        own["weight.nested_absmax"] = ("F32", (-(-blocks // NESTED_BLOCK),))
        own["weight.nested_quant_map"] = ("F32", (256,))
    return own


def _state_bytes(shape: Shape, quant: QuantSettings) -> int:
    state: dict[str, object] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
    if quant.double_quant:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": 0.0123456789012345}
    return len(json.dumps(state))


def _gguf(original: Stored, layers: int, scheme: str) -> dict[str, tuple[str, Shape]]:
    """llama.cpp's mixtures: `llama_tensor_get_type` for dense decoders, and norms in float32."""
    kind_of: Callable[[str], str] = (lambda _: scheme) if scheme == "Q8_0" else (lambda name: q4_k_m(name, layers))
    tied = "lm_head.weight" not in original

    def kind(name: str, shape: Shape) -> str:
        if len(shape) == 1:
            return "F32"
        return kind_of("lm_head.weight" if tied and "embed_tokens" in name else name)

    return {name: (kind(name, shape), shape) for name, (_, shape) in original.items()}


def q4_k_m(name: str, layers: int) -> str:
    """Q6_K for the output layer and, in the first and last eighth and every third layer, for values and `down_proj`."""
    if name == "lm_head.weight":
        return "Q6_K"
    place = re.search(r"\.layers\.(\d+)\.(?:self_attn\.v_proj|mlp\.down_proj)\.", name)
    if place is None:
        return "Q4_K"
    index, eighth = int(place[1]), layers // 8
    more = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
    return "Q6_K" if more else "Q4_K"


def ignored(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Which modules are left in BF16: those named, or matched by a pattern `re:...`, as llm-compressor reads them."""
    rules = [
        pattern.removeprefix("re:") if pattern.startswith("re:") else f"{re.escape(pattern)}$" for pattern in patterns
    ]
    return [name for name in names if any(re.match(rule, name) for rule in rules)]
