"""The choice of a mix: what each group would store in each format, the budget in bytes, and the best within it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.compare.decide.mixture import Option, choose, smallest
from pipeline.config import QuantSettings
from pipeline.errors import ConfigError
from pipeline.formats.layouts import Shape, Stored
from pipeline.models.headers import stored_tensors
from pipeline.models.layout import bytes_of, fields
from pipeline.models.mix import FILE, UNROUNDED
from pipeline.models.modules import Linear, decoder_linears, loaded_as_one, matched
from pipeline.results.mix import GroupChoice, Mix, Sensitivities
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.artifacts.workspace import Draft
    from pipeline.job import Job

BF16_BYTES = 2


def write(job: Job, draft: Draft) -> None:
    """Write the best mix of formats within a job's budget beside the weights to come; measure what is not there yet.

    Raises:
        ConfigError: if no choice fits into the budget.
    """
    from pipeline.stages.quantize.mixed import sensitivities

    with base.captured(job, draft, "the measurement of sensitivities"):
        known = sensitivities.of(job)
    found = chosen(job.settings.quant, stored_tensors(job.model.folder), job.model.config, known)
    folder = draft.folder / "checkpoint"
    folder.mkdir()
    (folder / FILE).write_text(found.model_dump_json(indent=1))


def chosen(quant: QuantSettings, original: Stored, config: Mapping[str, Any], known: Sensitivities) -> Mix:
    """Return the mix of formats with the least predicted divergence within the budget.

    Args:
        quant: candidates and budget.
        original: type and shape of every tensor of the BF16 checkpoint.
        config: content of config.json.
        known: the sensitivities of all groups.

    Raises:
        ConfigError: if no choice fits into the budget.
    """
    linears = decoder_linears(original, config)
    kept = set(matched(linears, quant.ignore))
    groups = loaded_as_one(linears)
    options = {name: _options(quant, own, known.kl[name], kept) for name, own in groups.items()}
    weights = sum(math.prod(linear.shape) for linear in linears.values())
    limit, said = _budget(quant, weights, original, config)
    found = choose(options, limit)
    if found is None:
        raise ConfigError(
            f"quant.{said}: the smallest mix of {', '.join((*quant.candidates, UNROUNDED))} takes "
            f"{8 * smallest(options) / weights:.3f} bits of a weight, the budget is {8 * limit / weights:.3f}.",
            "Raise the budget, or add a smaller format to quant.candidates.",
        )
    return Mix(
        budget=said,
        bits=8 * sum(option.bytes for option in found.values()) / weights,
        kl=sum(option.cost for option in found.values()),
        tokens=known.tokens,
        groups=tuple(_group(name, groups[name], option, known.kl[name]) for name, option in found.items()),
    )


def _group(name: str, linears: Sequence[Linear], option: Option, sensitivities: dict[str, float]) -> GroupChoice:
    return GroupChoice(
        name=name,
        layer=linears[0].layer,
        modules=tuple(linear.name for linear in linears),
        weights=sum(math.prod(linear.shape) for linear in linears),
        format=option.format,
        bytes=option.bytes,
        kl=option.cost,
        sensitivities=sensitivities,
    )


def _options(
    quant: QuantSettings, linears: Sequence[Linear], sensitivities: Mapping[str, float], kept: set[str]
) -> list[Option]:
    """Return the formats that a group can have: BF16 alone where a module of it is ignored."""
    shapes = [linear.shape for linear in linears]
    unrounded = Option(format=UNROUNDED, bytes=sum(BF16_BYTES * math.prod(shape) for shape in shapes), cost=0)
    if any(linear.name in kept for linear in linears):
        return [unrounded]
    own = (Option(format=name, bytes=size(quant, name, shapes), cost=sensitivities[name]) for name in quant.candidates)
    return [*own, unrounded]


def size(quant: QuantSettings, scheme: str, shapes: Sequence[Shape]) -> int:
    """Return the bytes that weights of these shapes take in one of the formats of a mix."""
    own = quant.candidate(scheme)
    return sum(sum(bytes_of(fields(shape, own)).values()) for shape in shapes)


def _budget(quant: QuantSettings, weights: int, original: Stored, config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the bytes that the decoder's Linears may take, and the setting that says so."""
    if quant.bits is not None:
        return int(quant.bits * weights / 8), f"bits={quant.bits:g}"
    assert quant.size_gb is not None
    linears = decoder_linears(original, config)
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    rest = {name: own for name, own in original.items() if name.removesuffix(".weight") not in linears}
    others = sum(taken for name, taken in bytes_of(rest).items() if name not in tied)
    return int(quant.size_gb * 1e9) - others, f"size_gb={quant.size_gb:g}"
