"""Footprint of a checkpoint by its tensors: what is stored, what a step reads, and products by their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.compare.roofline.device import Footprint
from pipeline.formats.schemes import SCHEMES, Activations
from pipeline.models.architecture import KV_BYTES, default_context, text_config
from pipeline.models.shapes import kv_heads
from pipeline.models.work import work_of


def footprint(
    weights: Mapping[str, int],
    schemes: Mapping[str, str | None],
    sizes: Mapping[str, int],
    config: Mapping[str, Any],
    kv_dtype: str,
) -> Footprint:
    """Return the footprint of a checkpoint.

    Args:
        weights: number of weights of each matrix, by module.
        schemes: number format of each quantized module, None where it is not known.
        sizes: bytes of each tensor.
        config: content of config.json.
        kv_dtype: number format of keys and values.

    Raises:
        InputError: if the config does not say what the work depends on.
    """
    kinds: dict[Activations, list[str]] = {}
    for module, scheme in schemes.items():
        # Products in BF16 are of one kind, whatever the weights are stored in.
        if scheme is not None and (kind := SCHEMES[scheme].activations) != "bf16":
            kinds.setdefault(kind, []).append(module)
    counted = {kind: work_of(weights, modules, sizes, config).products for kind, modules in kinds.items()}
    work = work_of(weights, [module for modules in kinds.values() for module in modules], sizes, config)
    activations: Activations = max(counted, key=lambda kind: counted[kind], default="bf16")
    products, others = (counted.pop(activations), work.bf16_products) if counted else (work.bf16_products, 0.0)
    decoder = text_config(config)
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
        **({"other_products": counted} if counted else {}),
    )
