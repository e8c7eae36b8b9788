"""What a checkpoint's weight files weigh, from the scheme and the shapes of the BF16 checkpoint alone.

Every tensor is predicted with its bytes: codes, scales, zero points, the order of groups, what is left in BF16, scales
of the KV cache, and the files' own headers. So a format that was not applied everywhere, a tensor that was stored twice
and one in a wider type all show, and by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline.config import QuantSettings
from pipeline.quantize.checkpoint import headers
from pipeline.quantize.engine import ignored

Shape = tuple[int, ...]
# The type as safetensors calls it, and the shape.
Stored = Mapping[str, tuple[str, Shape]]
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
# Bytes of a block and the weights in it (llama.cpp, ggml-common.h).
BLOCKS = {"F32": (4, 1), "Q8_0": (34, 32), "Q4_K": (144, 256), "Q6_K": (210, 256)}
HEADER = "(headers)"
# llama.cpp's file begins a tensor at a multiple of this.
ALIGNMENT = 32
# bitsandbytes' double quantization: scales that share one.
NESTED_BLOCK = 256


def predicted(source: Path, quant: QuantSettings, kv_scales: bool) -> dict[str, int]:
    """Every tensor that the weight files of a checkpoint hold, with its bytes, and what the files themselves take.

    Args:
        source: the BF16 checkpoint.
        quant: the scheme and its engine.
        kv_scales: whether calibrated scales of the KV cache are stored beside the weights.
    """
    original = {name: (str(item["dtype"]), tuple(item["shape"])) for name, item in headers(source).items()}
    config = json.loads((source / "config.json").read_text())
    config = config.get("text_config", config)
    if quant.scheme is not None and config.get("tie_word_embeddings") and quant.engine != "autogptq":
        original.pop("lm_head.weight", None)  # stored once, however the BF16 checkpoint does it
    if quant.engine == "gguf":
        return _gguf(source, original, int(config["num_hidden_layers"]), str(quant.scheme))
    found: dict[str, tuple[str, Shape]] = {}
    modules = quantized(original, quant)
    for name, stored in original.items():
        module = name.removesuffix(".weight")
        own = _tensors(stored[1], quant) if module in modules else {"weight": stored}
        prefix = module if name.endswith(".weight") else name.rpartition(".")[0]
        found |= {f"{prefix}.{part}": each for part, each in own.items()} if module in modules else {name: stored}
    sizes = {name: BYTES[kind] * math.prod(shape) for name, (kind, shape) in found.items()}
    sizes[HEADER] = _header(found, sizes)
    if kv_scales:
        layers = int(config["num_hidden_layers"])
        scales = {f"model.layers.{n}.self_attn.{x}_scale": ("F32", ()) for n in range(layers) for x in "kv"}
        added = dict.fromkeys(scales, BYTES["F32"])
        sizes |= added
        sizes[HEADER] += _header(scales, added)
    return sizes


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


def _header(tensors: Stored, sizes: Mapping[str, int]) -> int:
    """Bytes of a safetensors file before its tensors, see `models.safetensors_header`."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        content[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + sizes[name]]}
        end += sizes[name]
    return 8 + -(-len(json.dumps(content, separators=(",", ":"))) // 8) * 8


def _gguf(source: Path, original: Stored, layers: int, scheme: str) -> dict[str, int]:
    """llama.cpp's mixtures: `llama_tensor_get_type` for dense decoders, and norms in float32."""
    kind_of: Callable[[str], str] = (lambda _: scheme) if scheme == "Q8_0" else (lambda name: q4_k_m(name, layers))
    tied = "lm_head.weight" not in original
    sizes, infos = {}, 0
    for name, (_, shape) in original.items():
        kind = "F32" if len(shape) == 1 else kind_of("lm_head.weight" if tied and "embed_tokens" in name else name)
        size, weights = BLOCKS[kind]
        sizes[name] = math.prod(shape) // weights * size
        # The tensor's name (about llama.cpp's), its dimensions, type and place; the gap to the next.
        infos += 8 + len(name) // 2 + 4 + 8 * len(shape) + 4 + 8 + (-sizes[name]) % ALIGNMENT
    return sizes | {HEADER: infos + _vocabulary(source)}


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


def _vocabulary(source: Path) -> int:
    """Bytes of the tokenizer in a GGUF file: each token with its type, each merge, the chat template."""
    path = source / "tokenizer.json"
    if not path.is_file():
        return 0
    tokenizer = json.loads(path.read_text())
    model = tokenizer.get("model", {})
    tokens = {*model.get("vocab", {}), *(item["content"] for item in tokenizer.get("added_tokens", []))}
    merges = [item if isinstance(item, str) else " ".join(item) for item in model.get("merges") or []]
    templates = sum(file.stat().st_size for file in source.glob("chat_template*"))
    return sum(8 + len(token.encode()) + 4 for token in tokens) + sum(8 + len(m.encode()) for m in merges) + templates


def differences(expected: Mapping[str, int], folder: Path) -> list[str]:
    """The tensors that are there and not expected, missing, or of another size, each with both figures."""
    seen = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in headers(folder).items()}
    names = sorted({*expected, *seen} - {HEADER})
    return [
        f"{name}: {seen.get(name, 0):,} bytes instead of {expected.get(name, 0):,}"
        for name in names
        if seen.get(name, 0) != expected.get(name, 0)
    ]
