"""Peak memory of the forward passes, by the headers of the model alone: whole, and layer by layer.

Each part is an upper bound: every conversation is taken to be as long as `calibration.max_seq_length` allows.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config import CalibrationSettings
from pipeline.formats.layouts import Stored
from pipeline.models.architecture import chosen_experts, text_config
from pipeline.models.contents import numbers
from pipeline.models.headers import as_stored
from pipeline.models.modules import Part, decoder_linears, fusion_group, part_of

if TYPE_CHECKING:
    from pipeline.job import Job

GIB = 2**30
# Counts of one sketch: a histogram of 32 octaves at BF16's resolution, int64.
HISTOGRAM_BYTES = 8 << (5 + 7)
# Tensors of the residual stream's width that a layer holds at once, and of an MLP's.
STREAMS, MLPS = 8, 3
_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Peak:
    """Peak in bytes of the memory that computes (of the GPU, if there is one), and of the host's beside it."""

    device: float
    host: float

    def text(self, *, on_gpu: bool) -> str:
        """Return it as text; on a CPU the two are one memory."""
        if on_gpu:
            return f"{self.device / GIB:.1f} GiB of GPU memory and {self.host / GIB:.1f} GiB of the host's"
        return f"{(self.device + self.host) / GIB:.1f} GiB"


def said(job: Job) -> str:
    """Return the peaks of a variant's calibration as text; empty as long as the model's tensors are not known."""
    model, on_gpu = job.model, job.hardware.device == "cuda"
    settings = job.settings.calibration
    known = numbers(model.config, ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if model.is_random or model.settings.path is None or settings.artifact is not None or len(known) < 3:
        return ""
    itemsize = 2 if job.hardware.has_native_bf16 else 4
    found = peaks(as_stored(model.tensors), model.config, settings, itemsize)
    ways = {"always": ("layer by layer",), "never": ("whole",)}.get(settings.layerwise, tuple(found))
    return "; ".join(f"{way}: peak of about {found[way].text(on_gpu=on_gpu)}" for way in ways)


def peaks(tensors: Stored, config: Mapping[str, Any], settings: CalibrationSettings, itemsize: int) -> dict[str, Peak]:
    """Return the peak of the passes over the whole model, and layer by layer.

    Args:
        tensors: of the BF16 checkpoint.
        config: content of config.json.
        settings: of the calibration.
        itemsize: bytes of a number as it is computed with.
    """
    layers = int(text_config(config)["num_hidden_layers"])
    own, around, head = _weights(tensors, layers)
    sketches = {layer: count * _sketch(settings) for layer, count in _sites(tensors, config).items()}
    width = int(text_config(config)["hidden_size"])
    passing = _activations(config, settings.max_seq_length) * itemsize
    tokens = settings.num_samples * settings.max_seq_length
    observed, largest = sum(sketches.values()), max(sketches.values(), default=0)
    # Positions are computed for all conversations before the first layer.
    positions = 2 * tokens * _head_size(config) * itemsize
    weights = (around + sum(own.values()) + head) * itemsize
    one_layer = (around + max(own.values(), default=0)) * itemsize
    return {
        "whole": Peak(weights + passing + observed, 0),
        "layer by layer": Peak(one_layer + passing + largest + positions, observed + tokens * width * itemsize),
    }


def _weights(tensors: Stored, layers: int) -> tuple[Counter[int], int, int]:
    """Return the number of weights of each layer, of what is around the layers, and of the output layer."""
    own, around, head = Counter[int](), 0, 0
    for name, (_, shape) in tensors.items():
        part, number = part_of(name, layers), _NUMBER.search(name)
        if part in (Part.LAYERS, Part.EXPERTS) and number:
            own[int(number[1])] += math.prod(shape)
        elif part is Part.HEAD:
            head += math.prod(shape)
        elif part is not Part.UNREAD:
            around += math.prod(shape)
    return own, around, head


def _sites(tensors: Stored, config: Mapping[str, Any]) -> dict[int, int]:
    """Return the observed tensors of each layer: the inputs of its Linears, and keys and values."""
    groups = defaultdict(set)
    for linear in decoder_linears(tensors, config).values():
        groups[linear.layer].add(fusion_group(linear.name))
    return {layer: len(names) + 2 for layer, names in groups.items()}


def _sketch(settings: CalibrationSettings) -> int:
    """Return the bytes of one sketch: its counts, and their copies after powers of two and tenths of the samples."""
    return (1 + settings.num_samples.bit_length() + 10) * HISTOGRAM_BYTES


def _head_size(config: Mapping[str, Any]) -> int:
    decoder = text_config(config)
    return int(decoder.get("head_dim") or int(decoder["hidden_size"]) // int(decoder["num_attention_heads"]))


def _activations(config: Mapping[str, Any], length: int) -> int:
    """Return the numbers that a layer holds for one conversation, with the products of its queries and keys."""
    decoder = text_config(config)
    heads = int(decoder["num_attention_heads"])
    mlp = max(int(decoder.get(name) or 0) for name in ("intermediate_size", "moe_intermediate_size"))
    per_token = STREAMS * int(decoder["hidden_size"]) + MLPS * mlp + 4 * heads * _head_size(config)
    return length * (per_token + heads * length + chosen_experts(config))
