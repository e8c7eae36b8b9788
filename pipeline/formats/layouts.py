"""Storage layouts of quantized weights in checkpoints: a module's tensors, their decoding, and how to detect them.

A layout is named as in a checkpoint's config (`format` of compressed-tensors, else `quant_method` or
`checkpoint_format`). Several number formats share one; `schemes` lists the layouts that each engine writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.errors import UnknownFormat
from pipeline.formats import unpack, unpack_bitsandbytes
from pipeline.formats.elements import E8M0_NAN

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
# Type by safetensors' name (llama.cpp's for its blocks), and shape.
Stored = Mapping[str, tuple[str, Shape]]
# Permitted values of a scale tensor; `codes` are exponents of powers of two.
Scales = Literal["positive", "zero or more", "not zero", "codes"]
# bitsandbytes' NF4: weights that share a scale; with double quantization, scales that share a second-level scale.
BLOCK, NESTED_BLOCK = 64, 256


class Packing(NamedTuple):
    """Storage parameters of a weight, from its number format and settings.

    Attributes:
        bits: bits per weight.
        group: input channels that share a scale; None: a scale per channel or tensor.
        zero_points: whether groups have one.
        per_tensor: whether there is one scale for the whole weight.
        block: side of the squares of weights that share a scale; None: they lie in one row.
        static: whether the activations' scale is calibrated.
        weights_only: whether activations stay in 16 bits.
        nested: whether the scales are quantized too.
    """

    bits: int
    group: int | None
    zero_points: bool = False
    per_tensor: bool = False
    block: int | None = None
    static: bool = False
    weights_only: bool = False
    nested: bool = False

    @property
    def integers(self) -> int:
        """Number of weights in an int32."""
        return 32 // self.bits


@dataclass(frozen=True)
class WeightLayout:
    """One way to store a quantized weight of shape (out, in).

    Attributes:
        name: as checkpoints' configs have it.
        fields: the shape and the packing -> each tensor of the module by its own name.
        unpack: the module's tensors by their own names, and an integer's bits -> float32 of shape (out, in).
        marks: tensors, any one of which marks a module as quantized.
        scales: permitted values of each scale tensor.
    """

    name: str
    fields: Callable[[Shape, Packing], Stored]
    unpack: Callable[[Mapping[str, torch.Tensor], int], torch.Tensor]
    marks: tuple[str, ...] = ("weight_scale",)
    scales: Mapping[str, Scales] = field(default_factory=lambda: {"weight_scale": "positive"})


def _packed(shape: Shape, packing: Packing) -> Stored:
    (out, width), groups = shape, _groups(shape, packing)
    own: dict[str, tuple[str, Shape]] = {
        "weight_packed": ("I32", (out, -(-width // packing.integers))),
        "weight_scale": ("BF16", (out, groups)),
        "weight_shape": ("I64", (2,)),
    }
    if packing.zero_points:
        own["weight_zero_point"] = ("I32", (-(-out // packing.integers), groups))
    return own


def _as_they_are(kind: str, scales: str, shape: Shape, packing: Packing) -> Stored:
    scale: Shape = (shape[0], _groups(shape, packing))
    if packing.per_tensor:
        scale = (1,)
    elif packing.block is not None:
        scale = (-(-shape[0] // packing.block), -(-shape[1] // packing.block))
    static: Stored = {"input_scale": ("BF16", (1,))} if packing.static else {}
    return {"weight": (kind, shape), "weight_scale": (scales, scale), **static}


def _fp8_blocks(shape: Shape, packing: Packing) -> Stored:
    own = _as_they_are("F8_E4M3", "BF16", shape, packing)
    return {unpack.DEEPSEEK_SCALE if name == "weight_scale" else name: each for name, each in own.items()}


def _nvfp4(shape: Shape, packing: Packing) -> Stored:
    out, width = shape
    own: dict[str, tuple[str, Shape]] = {
        "weight_packed": ("U8", (out, width // 2)),
        "weight_scale": ("F8_E4M3", (out, _groups(shape, packing))),
        "weight_global_scale": ("F32", (1,)),
    }
    return own if packing.weights_only else {**own, "input_global_scale": ("F32", (1,))}


def _mxfp4(shape: Shape, packing: Packing) -> Stored:
    out, width = shape
    return {"weight_packed": ("U8", (out, width // 2)), "weight_scale": ("U8", (out, _groups(shape, packing)))}


def _awq(shape: Shape, packing: Packing) -> Stored:
    (out, width), groups = shape, _groups(shape, packing)
    return {
        "qweight": ("I32", (width, out // packing.integers)),
        "qzeros": ("I32", (groups, out // packing.integers)),
        "scales": ("F16", (groups, out)),
    }


def _gptq(shape: Shape, packing: Packing) -> Stored:
    (out, width), groups = shape, _groups(shape, packing)
    return {
        "qweight": ("I32", (width // packing.integers, out)),
        "qzeros": ("I32", (groups, out // packing.integers)),
        "scales": ("F16", (groups, out)),
        "g_idx": ("I32", (width,)),
    }


def _bitsandbytes(shape: Shape, packing: Packing) -> Stored:
    out, width = shape
    if packing.bits == 8:
        return {"weight": ("I8", shape), "SCB": ("F32", (out,)), "weight_format": ("U8", ())}
    blocks = -(-out * width // (packing.group or BLOCK))
    own: dict[str, tuple[str, Shape]] = {
        "weight": ("U8", (-(-out * width // 2), 1)),
        "weight.absmax": ("U8" if packing.nested else "F32", (blocks,)),
        "weight.quant_map": ("F32", (16,)),
        # A line of JSON: the block size, the type and the shape.
        unpack_bitsandbytes.STATE: ("U8", (_state_bytes(shape, packing),)),
    }
    if packing.nested:
        own["weight.nested_absmax"] = ("F32", (-(-blocks // NESTED_BLOCK),))
        own["weight.nested_quant_map"] = ("F32", (256,))
    return own


def _state_bytes(shape: Shape, packing: Packing) -> int:
    block = packing.group or BLOCK
    state: dict[str, object] = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    if packing.nested:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": 0.0123456789012345}
    return len(json.dumps(state))


def _groups(shape: Shape, packing: Packing) -> int:
    return shape[1] // (packing.group or shape[1])


_DIVISORS: Mapping[str, Scales] = {
    "weight_scale": "positive",
    "weight_global_scale": "positive",
    "input_global_scale": "positive",
}
_STATIC: Mapping[str, Scales] = {"weight_scale": "positive", "input_scale": "positive"}
# AutoRound turns a group around where its largest weight is positive: one side has a step more than the other.
_TURNED: Mapping[str, Scales] = {"scales": "not zero"}
# The largest magnitude, or its code: 0 if all weights are 0.
_MAGNITUDES: Mapping[str, Scales] = {
    "SCB": "zero or more",
    "weight.absmax": "zero or more",
    "weight.nested_absmax": "zero or more",
}
PACKED = WeightLayout("pack-quantized", _packed, unpack.pack_quantized)
INT8 = WeightLayout("int-quantized", partial(_as_they_are, "I8", "BF16"), unpack.as_they_are, scales=_STATIC)
FP8 = WeightLayout("float-quantized", partial(_as_they_are, "F8_E4M3", "BF16"), unpack.as_they_are, scales=_STATIC)
# DeepSeek's own layout, and that of Qwen's FP8 releases.
FP8_BLOCKS = WeightLayout(
    "fp8",
    _fp8_blocks,
    unpack.fp8_blocks,
    marks=(unpack.DEEPSEEK_SCALE,),
    scales={unpack.DEEPSEEK_SCALE: "positive"},
)
MXFP8 = WeightLayout(
    "mxfp8-quantized", partial(_as_they_are, "F8_E4M3", "U8"), unpack.as_they_are, scales={"weight_scale": "codes"}
)
NVFP4 = WeightLayout("nvfp4-pack-quantized", _nvfp4, unpack.fp4, scales=_DIVISORS)
MXFP4 = WeightLayout("mxfp4-pack-quantized", _mxfp4, unpack.fp4, scales={"weight_scale": "codes"})
AWQ = WeightLayout("awq", _awq, unpack.awq, marks=("qweight",), scales=_TURNED)
GPTQ = WeightLayout("gptq", _gptq, unpack.gptq, marks=("qweight",), scales=_TURNED)
GPTQ_V2 = WeightLayout("gptq_v2", _gptq, partial(unpack.gptq, stored_too_small=False), ("qweight",), _TURNED)
BITSANDBYTES = WeightLayout(
    "bitsandbytes",
    _bitsandbytes,
    unpack_bitsandbytes.unpack,
    marks=(unpack_bitsandbytes.STATE, unpack_bitsandbytes.ROW_SCALE),
    scales=_MAGNITUDES,
)
LAYOUTS: Mapping[str, WeightLayout] = {
    layout.name: layout
    for layout in (PACKED, INT8, FP8, FP8_BLOCKS, MXFP8, NVFP4, MXFP4, AWQ, GPTQ, GPTQ_V2, BITSANDBYTES)
}
# Tensors that mark a module as quantized, in any layout.
MARKS = tuple(dict.fromkeys(f".{mark}" for layout in LAYOUTS.values() for mark in layout.marks))


def layout_of(name: str) -> WeightLayout:
    """Return the layout with this name.

    Raises:
        UnknownFormat: if the layout is unknown.
    """
    if name not in LAYOUTS:
        raise UnknownFormat(f"how {name} stores weights")
    return LAYOUTS[name]


def dequantize(name: str, tensors: Mapping[str, torch.Tensor], bits: int = 4) -> torch.Tensor:
    """Return the weight that a module's tensors encode: float32, of shape (out, in).

    Args:
        name: name of the layout.
        tensors: the module's tensors by their own names.
        bits: bits per integer; used by the packed layouts only.

    Raises:
        UnknownFormat: if the layout is unknown.
    """
    return layout_of(name).unpack(tensors, bits)


def possible(kind: Scales, scales: torch.Tensor) -> torch.Tensor:
    """Return a mask of the values in a scale tensor that are valid scales."""
    values = scales.float()
    if kind == "codes":
        return values != E8M0_NAN  # of powers of two, which are all positive and finite
    if kind == "zero or more":
        sane = values >= 0
    elif kind == "not zero":
        sane = values != 0
    else:
        sane = values > 0
    return sane & values.isfinite()
