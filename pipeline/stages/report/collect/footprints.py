"""Footprints of variants (storage, memory traffic, compute): from a checkpoint's headers, else from a config alone."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.compare.roofline.device import Footprint
from pipeline.config import QuantSettings, Stage, Variant, choice
from pipeline.errors import InputError
from pipeline.formats.schemes import SCHEMES, Activations
from pipeline.models.architecture import KV_BYTES, DecoderShape, default_context, read_config, text_config
from pipeline.models.headers import (
    as_stored,
    gguf_file,
    headers,
    packed_bits,
    quantization_config,
    quantized_modules,
)
from pipeline.models.layout import bytes_of, quantized, stored
from pipeline.models.shapes import kv_heads
from pipeline.models.work import weights_of, work_of
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
        weights = weights_of(as_stored(found), packed_bits(quantization_config(folder)))
        modules = quantized_modules(folder)
        sizes = {name: item["data_offsets"][1] - item["data_offsets"][0] for name, item in found.items()}
        return _footprint(weights, modules, sizes, config, scheme, kv_dtype)
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
    made = stored(original, config, quant)
    return _footprint(
        weights_of(original, 0), quantized(original, config, quant), bytes_of(made), config, quant.scheme, kv_dtype
    )


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


def _footprint(
    weights: Mapping[str, int],
    modules: Collection[str],
    sizes: Mapping[str, int],
    config: Mapping[str, Any],
    scheme: str | None,
    kv_dtype: str,
) -> Footprint:
    """Return the footprint of a checkpoint by its weights in each matrix, quantized modules, and bytes of tensors."""
    activations: Activations = "bf16" if scheme is None else SCHEMES[scheme].activations
    # Products in BF16 are of one kind, whatever the weights are stored in.
    counted = () if activations == "bf16" else modules
    work, decoder = work_of(weights, counted, sizes, config), text_config(config)
    products, others = (work.products, work.bf16_products) if counted else (work.bf16_products, 0.0)
    return Footprint(
        weight_bytes=sum(sizes.values()),
        step_bytes=work.step_bytes,
        kv_bytes_per_token=work.cached * KV_BYTES[kv_dtype],
        products=products,
        head_products=work.head_products,
        attention_products=work.attention_products,
        activations=activations,
        context=default_context(config) or 0,
        hidden=int(decoder["hidden_size"]),
        intermediate=work.mlp,
        vocabulary=int(decoder["vocab_size"]),
        bf16_products=others,
        experts=work.experts,
        chosen=work.chosen,
        expert_bytes=work.expert_bytes,
        kv_heads=kv_heads(config),
    )
