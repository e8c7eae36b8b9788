"""What variants store, move and compute: of finished checkpoints from their headers, of others from a config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.compare.estimates import Missing
from pipeline.compare.roofline import Footprint
from pipeline.config import PROJECT_ROOT, QuantSettings, Variant
from pipeline.errors import InputError
from pipeline.quantize.checkpoint import headers
from pipeline.schemes import SCHEMES
from pipeline.shapes import EMBEDDING, DecoderShape
from pipeline.storage import bytes_of, stored

CONF = PROJECT_ROOT / "conf"
KV_BYTES = {"auto": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


def of_checkpoint(folder: Path, scheme: str | None, kv_dtype: str) -> Footprint | Missing:
    """What a finished checkpoint moves, from its files' headers and its config."""
    try:
        shape = DecoderShape.of(json.loads((folder / "config.json").read_text()))
        found = headers(folder)
    except InputError as error:
        return Missing(reason=error.problem)
    except (OSError, ValueError, KeyError) as error:
        return Missing(reason=f"the checkpoint cannot be read ({type(error).__name__})")
    if not found:
        return Missing(reason="the checkpoint is gone")
    weights = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in found.items()}
    return _footprint(shape, weights, scheme, kv_dtype)


def of_config(config: Mapping[str, Any], variant: Variant) -> Footprint | Missing:
    """What a variant of a model would move, from the model's config alone."""
    try:
        shape = DecoderShape.of(config)
    except InputError as error:
        return Missing(reason=error.problem)
    quant = settings_of(variant.quant)
    original = {name: ("BF16", dimensions) for name, dimensions in shape.tensors.items()}
    return _footprint(shape, bytes_of(stored(original, config, quant)), quant.scheme, variant.kv_cache)


@cache
def settings_of(quant: str) -> QuantSettings:
    """A format as `conf/quant/` describes it, over the defaults of `conf/config.yaml`."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["quant"]
    return QuantSettings.model_validate(defaults | yaml.safe_load((CONF / "quant" / f"{quant}.yaml").read_text()))


def _footprint(shape: DecoderShape, weights: Mapping[str, int], scheme: str | None, kv_dtype: str) -> Footprint:
    """Of a tied embedding every row is read, as the output layer; of another one a row a token."""
    total = sum(weights.values())
    return Footprint(
        weight_bytes=total,
        step_bytes=total if shape.tied else total - weights.get(EMBEDDING, 0),
        kv_bytes_per_token=shape.kv_values_per_token * KV_BYTES[kv_dtype],
        products=shape.linear_parameters,
        head_products=shape.head_parameters,
        attention_products=shape.attention_products,
        activations="bf16" if scheme is None else SCHEMES[scheme].activations,
    )
