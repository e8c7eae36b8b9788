"""Proof that a mapping of AWQ or SmoothQuant leaves a loaded model's answers alike, before anything is rescaled by it.

Both divide a layer's channels and multiply the Linears behind it. A mapping that forgets a reader of the layer (a
router, an MLP beside the attention) makes another model, which no comparison of weights shows. Multiplied by powers of
two, floating-point numbers keep their bits, so that a right mapping moves the answers by nothing but the rounding of
norms that store their weight less one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.models.mappings import ENGINE, rescaled_by
from pipeline.models.rescaling import norm_offset

# Relative distance of logits that rounding of norms explains; a forgotten reader moves them by tenths.
EXPLAINED = 0.03
SEED = 5


def moved_by(model: Any, config: Mapping[str, Any], algorithm: str, ids: torch.Tensor) -> float:
    """Return how far the answers move, relative to their length, where llm-compressor's mapping is applied to a model.

    Args:
        model: the model, by transformers; its weights are the same afterwards.
        config: content of the BF16 checkpoint's config.json.
        algorithm: `awq` or `smoothquant`.
        ids: tokens, of shape (1, length).
    """
    # By the model's own names, which the engine has: those of some experts differ from the checkpoint's.
    modules = {name: module for name, module in model.named_modules() if _is_scalable(module)}
    shapes = {name: tuple(module.weight.shape) for name, module in modules.items()}
    pairs = rescaled_by(config, shapes, algorithm, ENGINE)
    with torch.no_grad():
        before = model(ids, use_cache=False).logits.float()
        with _rescaled(modules, pairs, norm_offset(config)):
            after = model(ids, use_cache=False).logits.float()
    return float((after - before).norm() / before.norm())


def _is_scalable(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.nn.Parameter) and weight.dim() in (1, 2)


@contextmanager
def _rescaled(modules: Mapping[str, Any], pairs: Mapping[str, str], offset: float) -> Iterator[None]:
    """Multiply each Linear's inputs by powers of two, divide what makes them, and undo it at the end."""
    draw = torch.Generator().manual_seed(SEED)
    factors: dict[str, torch.Tensor] = {}
    for module, maker in pairs.items():
        weight = modules[module].weight
        if maker not in factors:
            factors[maker] = (2.0 ** torch.randint(-1, 2, weight.shape[-1:], generator=draw)).to(weight)
        weight.mul_(factors[maker])
    norms = {maker: modules[maker].weight.data for maker in factors if modules[maker].weight.dim() == 1}
    for maker, own in factors.items():
        _multiply(modules[maker], 1 / own, offset)
    yield
    for module, maker in pairs.items():
        modules[module].weight.div_(factors[maker])
    for maker, own in factors.items():
        _multiply(modules[maker], own, offset)
    for maker, weight in norms.items():
        modules[maker].weight.data = weight


def _multiply(maker: Any, factors: torch.Tensor, offset: float) -> None:
    """Multiply the outputs of a norm, or the last ones of a Linear."""
    weight, bias = maker.weight, getattr(maker, "bias", None)
    if weight.dim() == 1:
        scaled = (weight.float() + offset) * factors.float() - offset
        # Norms with an offset compute in float32, which keeps all bits of their weight.
        weight.data = scaled if offset else scaled.to(weight.dtype)
    else:
        weight[-len(factors) :].mul_(factors[:, None])
    if bias is not None:
        bias[-len(factors) :].mul_(factors)
