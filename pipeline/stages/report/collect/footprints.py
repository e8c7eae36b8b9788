"""Footprints of variants (storage, memory traffic, compute): from a checkpoint's headers, else from a config alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.compare.roofline.device import Footprint
from pipeline.compare.roofline.footprint import footprint
from pipeline.config import QuantSettings, Stage, Variant, choice
from pipeline.errors import InputError
from pipeline.formats.layouts import Stored
from pipeline.formats.schemes import MIXED
from pipeline.models import mix
from pipeline.models.architecture import DecoderShape, read_config
from pipeline.models.headers import (
    as_stored,
    by_module,
    gguf_file,
    headers,
    packed_bits,
    quantization_config,
    quantized_modules,
)
from pipeline.models.layout import bytes_of, quantized, stored
from pipeline.models.modules import decoder_linears
from pipeline.models.work import weights_of
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
        return of_format(
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
        config, found = read_config(folder), headers(folder)
        if not found:
            return Missing(reason="the checkpoint is gone")
        own = by_module(quantization_config(folder))
        weights = weights_of(as_stored(found), lambda module: packed_bits(own(module)))
        modules = quantized_modules(folder)
        sizes = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in found.items()}
        schemes = mix.formats(folder) if scheme == MIXED else dict.fromkeys(modules, scheme)
        return footprint(weights, {module: schemes.get(module) for module in modules}, sizes, config, kv_dtype)
    except InputError as error:
        return Missing(reason=error.problem)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        return Missing(reason=f"the checkpoint cannot be read ({type(error).__name__})")


def of_config(config: Mapping[str, Any], variant: Variant) -> Footprint | Missing:
    """Return the footprint of a variant, from the model's config alone."""
    return of_format(config, settings_of(variant.quant), variant.kv_cache)


def of_format(config: Mapping[str, Any], quant: QuantSettings | Missing, kv_dtype: str) -> Footprint | Missing:
    """Return the footprint of a format, as its scheme stores a model of this config."""
    if isinstance(quant, Missing):
        return quant
    try:
        shape = DecoderShape.of(config)
    except InputError as error:
        return Missing(reason=error.problem)
    original = {name: ("BF16", dimensions) for name, dimensions in shape.tensors.items()}
    if quant.is_mixed:
        return _of_budget(original, config, quant, kv_dtype)
    made, modules = bytes_of(stored(original, config, quant)), quantized(original, config, quant)
    return footprint(weights_of(original), dict.fromkeys(modules, quant.scheme), made, config, kv_dtype)


def _of_budget(original: Stored, config: Mapping[str, Any], quant: QuantSettings, kv_dtype: str) -> Footprint | Missing:
    """Return the footprint of a mix before its choice is made: as large as its budget, with products in BF16."""
    weights, sizes = weights_of(original), bytes_of(original)
    modules = decoder_linears(original, config)
    number = sum(weights[module] for module in modules)
    others = sum(size for name, size in sizes.items() if name.removesuffix(".weight") not in modules)
    if quant.bits is not None:
        share = quant.bits / 8
    elif quant.size_gb is not None:
        share = (1e9 * quant.size_gb - others) / number
    else:
        return Missing(reason="its size follows from the gain that is asked for")
    return footprint(weights, {}, sizes | {f"{m}.weight": round(share * weights[m]) for m in modules}, config, kv_dtype)


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
