"""The choice of a mix: what each group would store in each format, the budget in bytes, and the best within it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.compare.decide.format_choice import Option, Options, choose, smallest
from pipeline.config import QuantSettings
from pipeline.errors import ConfigError
from pipeline.formats.layouts import Shape, Stored
from pipeline.models.headers import stored_tensors
from pipeline.models.layout import bytes_of, fields
from pipeline.models.mix import FILE, UNROUNDED
from pipeline.models.modules import Linear, decoder_linears, loaded_as_one, matched
from pipeline.results.mix import GroupChoice, Mix, Sensitivities
from pipeline.stages.quantize.engines import base
from pipeline.stages.quantize.mixed.gain import Gain, gain_on, target

if TYPE_CHECKING:
    from pipeline.artifacts.workspace import Draft
    from pipeline.job import Job

BF16_BYTES = 2
# Share of the weights' bytes at which the search for a gain stops.
RESOLUTION = 1e-3


def write(job: Job, draft: Draft) -> Mix:
    """Write the best mix of formats within a job's budget beside the weights to come, and return it.

    Sensitivities that are not there yet are measured.

    Raises:
        ConfigError: if no choice fits into the budget.
    """
    from pipeline.stages.quantize.mixed import sensitivities

    with base.captured(job, draft, "the measurement of sensitivities"):
        known = sensitivities.of(job)
    quant, original, config = job.settings.quant, stored_tensors(job.model.folder), job.model.config
    gain = None
    if quant.gain_percent is not None:
        gpu = target(job.settings, job.hardware)
        gain = gain_on(gpu, quant, original, config, job.settings.kv_cache.dtype)
    found = chosen(quant, original, config, known, gain)
    folder = draft.folder / "checkpoint"
    folder.mkdir()
    (folder / FILE).write_text(found.model_dump_json(indent=1))
    return found


def chosen(
    quant: QuantSettings,
    original: Stored,
    config: Mapping[str, Any],
    known: Sensitivities,
    gain: Gain | None = None,
) -> Mix:
    """Return the mix of formats with the least predicted divergence within the budget.

    Args:
        quant: candidates and budget.
        original: type and shape of every tensor of the BF16 checkpoint.
        config: content of config.json.
        known: the sensitivities of all groups.
        gain: of a choice in throughput, percent; for a budget that is stated as such.

    Raises:
        ConfigError: if no choice fits into the budget.
    """
    linears = decoder_linears(original, config)
    kept = set(matched(linears, quant.ignore))
    groups = loaded_as_one(linears)
    options = {name: _options(quant, own, known.kl[name], kept) for name, own in groups.items()}
    weights = sum(math.prod(linear.shape) for linear in linears.values())
    if quant.gain_percent is not None and gain is not None:
        said = f"gain_percent={quant.gain_percent:g}"
        found = _gaining(options, groups, gain, quant.gain_percent)
    else:
        limit, said = _budget(quant, weights, original, config)
        found = _within(options, limit, weights, said, quant)
    return Mix(
        budget=said,
        bits=8 * sum(option.bytes for option in found.values()) / weights,
        kl=sum(option.cost for option in found.values()),
        tokens=known.tokens,
        groups=tuple(_group(name, groups[name], option, known.kl[name]) for name, option in found.items()),
    )


def _within(options: Options, limit: int, weights: int, said: str, quant: QuantSettings) -> dict[str, Option]:
    """Return the best choice within a number of bytes.

    Raises:
        ConfigError: if none fits.
    """
    found = choose(options, limit)
    if found is None:
        raise ConfigError(
            f"quant.{said}: the smallest mix of {', '.join((*quant.candidates, UNROUNDED))} takes "
            f"{8 * smallest(options) / weights:.3f} bits of a weight, the budget is {8 * limit / weights:.3f}.",
            "Raise the budget, or add a smaller format to quant.candidates.",
        )
    return found


def _gaining(options: Options, groups: Mapping[str, Sequence[Linear]], gain: Gain, wanted: float) -> dict[str, Option]:
    """Return the best choice within the most bytes with which it still gains as much.

    The gain is that of the best choice of so many bytes, which falls as bytes rise.

    Raises:
        ConfigError: if the smallest choice gains less.
    """

    def gains(found: Mapping[str, Option]) -> float:
        return gain({linear.name: option.format for name, option in found.items() for linear in groups[name]})

    low, high = smallest(options), sum(max(option.bytes for option in own) for own in options.values())
    best = choose(options, low)
    assert best is not None
    if (most := gains(best)) < wanted:
        raise ConfigError(
            f"quant.gain_percent={wanted:g}: by the roofline, the smallest mix gains {most:.1f} % there.",
            "Ask for less, or add a smaller format to quant.candidates.",
        )
    while high - low > high * RESOLUTION:
        middle = (low + high) // 2
        found = choose(options, middle)
        if found is not None and gains(found) >= wanted:
            low, best = middle, found
        else:
            high = middle
    return best


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
