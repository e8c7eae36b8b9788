"""Footprints of variants (storage, memory traffic, compute): from a checkpoint's headers, else from a config alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.compare.roofline.device import Footprint
from pipeline.config import QuantSettings, Stage, Variant, choice
from pipeline.errors import InputError
from pipeline.formats.schemes import SCHEMES
from pipeline.models.architecture import EMBEDDING, KV_BYTES, DecoderShape, read_config
from pipeline.models.headers import gguf_file, headers
from pipeline.models.layout import bytes_of, stored
from pipeline.results.base import Missing
from pipeline.stages.report.collect.artifacts import Source


def of_source(source: Source) -> Footprint | Missing:
    """Return the footprint of a row's checkpoint; if its files are elsewhere, as its scheme would store it."""
    made = source.finished(Stage.QUANTIZE)
    if made is None:
        return Missing(reason=source.missing_reason(Stage.QUANTIZE))
    folder = source.folders[Stage.QUANTIZE] / "checkpoint"
    model = made.payload.get("model")
    shape = model.get("random") if isinstance(model, Mapping) else None
    if gguf_file(folder):
        # A GGUF header contains the whole vocabulary and takes a second to read.
        shape = _config(folder)
    elif any(folder.glob("*.safetensors")):
        shape = None
    if shape:
        return as_stored(
            shape, _settings({"name": source.name, "title": source.label, **source.quant}), source.kv_dtype
        )
    return of_checkpoint(folder, source.quant.get("scheme"), source.kv_dtype)


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_config(folder)
    except (OSError, ValueError):
        return None


def of_checkpoint(folder: Path, scheme: str | None, kv_dtype: str) -> Footprint | Missing:
    """Return the footprint of a finished checkpoint, from its files' headers and its config."""
    try:
        shape = DecoderShape.of(read_config(folder))
        found = headers(folder)
    except InputError as error:
        return Missing(reason=error.problem)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        return Missing(reason=f"the checkpoint cannot be read ({type(error).__name__})")
    if not found:
        return Missing(reason="the checkpoint is gone")
    weights = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in found.items()}
    return _footprint(shape, weights, scheme, kv_dtype)


def of_config(config: Mapping[str, Any], variant: Variant) -> Footprint | Missing:
    """Return the footprint of a variant, from the model's config alone."""
    return as_stored(config, settings_of(variant.quant), variant.kv_cache)


def as_stored(config: Mapping[str, Any], quant: QuantSettings | Missing, kv_dtype: str) -> Footprint | Missing:
    """Return the footprint of a format, as its scheme stores a model of this config."""
    if isinstance(quant, Missing):
        return quant
    try:
        shape = DecoderShape.of(config)
    except InputError as error:
        return Missing(reason=error.problem)
    original = {name: ("BF16", dimensions) for name, dimensions in shape.tensors.items()}
    return _footprint(shape, bytes_of(stored(original, config, quant)), quant.scheme, kv_dtype)


def _settings(recorded: Mapping[str, Any]) -> QuantSettings | Missing:
    """Return a format as recorded in a manifest, possibly by an earlier release."""
    try:
        return QuantSettings.model_validate(recorded)
    except ValueError:
        return Missing(reason="the recorded format is not one of this release")


@cache
def settings_of(quant: str) -> QuantSettings:
    """Return a format of `conf/quant/` with a variant's own settings in parentheses."""
    variant = Variant(quant=quant)
    own = OmegaConf.merge(OmegaConf.create(dict(choice("quant", variant.format) or {})), _own(variant), {"name": quant})
    return QuantSettings.model_validate(OmegaConf.to_container(own))


def _own(variant: Variant) -> DictConfig:
    return OmegaConf.from_dotlist(list(variant.options))


def _footprint(shape: DecoderShape, weights: Mapping[str, int], scheme: str | None, kv_dtype: str) -> Footprint:
    """Return the footprint; a tied embedding is read whole (as the output layer), an untied one row by row."""
    total = sum(weights.values())
    return Footprint(
        weight_bytes=total,
        step_bytes=total if shape.tied else total - weights.get(EMBEDDING, 0),
        kv_bytes_per_token=shape.kv_values_per_token * KV_BYTES[kv_dtype],
        products=shape.linear_parameters,
        head_products=shape.head_parameters,
        attention_products=shape.attention_products,
        activations="bf16" if scheme is None else SCHEMES[scheme].activations,
        context=shape.context,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
    )
