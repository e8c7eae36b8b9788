"""Comparison of every tensor with BF16: a wrong scale, order or zero point loads without an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import QuantSettings
from pipeline.errors import UnknownFormat
from pipeline.formats import rounding, unpack_gguf
from pipeline.models.architecture import text_config
from pipeline.models.headers import gguf_file
from pipeline.models.mappings import ENGINE
from pipeline.results.verify import PartError, WeightError

if TYPE_CHECKING:
    import torch

    from pipeline.models.pair import Pair

Inputs = Callable[[set[str]], Mapping[str, "torch.Tensor"]]


def compare(folder: Path, source: Path, quant: QuantSettings, inputs: Inputs | None = None) -> list[WeightError]:
    """Return each quantized module's errors (see `rounding`), and the limits for its format and algorithm.

    Rescaled weights are compared with their factors divided out, so that the errors of one format mean the same
    whatever algorithm made it. Rows that GPTQ moved far on purpose are judged by their outputs (`heavy_rows`).

    Args:
        folder: the quantized checkpoint.
        source: the BF16 checkpoint.
        quant: how the one was made of the other.
        inputs: returns inputs of modules in the BF16 model, (tokens, in), as far as they are known; called for those
            whose weights are farther away than explained, if there are any.

    Raises:
        UnknownFormat: if the weights of the format or the model cannot be compared.
        InputError: if a tensor of the format or the model is missing, or does not fit the others.
    """
    import torch

    from pipeline.models.pair import Pair

    if quant.scheme is None:
        raise UnknownFormat(f"how {quant.title} rounds")
    # Billions of weights take a minute on a CPU, and seconds on a GPU.
    pair = Pair(folder, source, quant, "cuda" if torch.cuda.is_available() else "cpu")
    found = [_compared(pair, module) for module in pair.images.modules if f"{module}.weight" in pair.before]
    suspects = {each.module for each in found if each.excess > 1}
    if not suspects or inputs is None or quant.algorithm not in rounding.COMPENSATING:
        return found
    seen = inputs(suspects)
    return [_beside_outputs(pair, each, seen[each.module]) if each.module in seen else each for each in found]


def _weights(pair: Pair, module: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a module's weight, its image, and the weight rounded to nearest, with the factors divided out."""
    original, scale = pair.before[f"{module}.weight"].float(), pair.factors.of(module)
    quant = pair.quant.of(module)
    scheme = pair.images.block_format(module) or str(quant.scheme)
    nearest = rounding.rounded(original * scale, scheme, quant.effective_group_size) / scale
    found = (original, pair.images[module] / scale, nearest)
    if (dead := pair.dead(module)) is None:
        return found
    return found[0].masked_fill(dead, 0), found[1].masked_fill(dead, 0), found[2].masked_fill(dead, 0)


def _factor_error(pair: Pair, module: str) -> torch.Tensor | float:
    """Return how far the factors that were divided out of a module's input channels may be off, relative to each."""
    factors = pair.factors
    maker = factors.pairs[module]
    if factors.is_norm(maker):
        return factors.noise(module)
    original, _, nearest = _weights(pair, maker)
    width = pair.before[f"{module}.weight"].shape[1]
    return rounding.explained_factors(original, nearest, pair.quant.of(maker).algorithm, 1)[-width:]


def _compared(pair: Pair, module: str, set_aside: torch.Tensor | None = None) -> WeightError:
    """Return the errors of a module; of one with huge inputs, without the heavy rows that are set aside."""
    if pair.before[f"{module}.weight"].shape != pair.images[module].shape:
        return WeightError(module=module, error=math.inf, allowed=0, factor_error=math.inf)
    original, image, nearest = _weights(pair, module)
    if set_aside is not None:
        original, image, nearest = (each[~set_aside] for each in (original, image, nearest))
    quant, factors = pair.quant.of(module), pair.factors
    group, algorithm = quant.effective_group_size, quant.algorithm
    limit = rounding.limits(original, nearest, group, algorithm)
    parts = rounding.worst_parts(original, image, nearest, group, algorithm, beside_huge=set_aside is not None)
    if module in factors.pairs:
        # Other engines' AWQ clips the largest weights after scaling.
        clipped = rounding.CLIPPED if quant.engine != ENGINE else 0.0
        slack = _factor_error(pair, module) + clipped
        parts.append(rounding.worst_channel(original, image, nearest, algorithm, slack))
    return WeightError(
        module=module,
        error=rounding.relative_error(original, image),
        allowed=limit.error,
        nearest=rounding.relative_error(original, nearest),
        factor_error=rounding.factor_error(original, image, group),
        allowed_factor_error=limit.factor_error,
        parts=tuple(PartError(**part._asdict()) for part in parts),
    )


def _beside_outputs(pair: Pair, known: WeightError, inputs: torch.Tensor) -> WeightError:
    """Judge a module with huge inputs: its heavy rows by their outputs, and the others by their weights."""
    if not math.isfinite(known.error) or not rounding.has_huge(inputs):
        return known
    original, image, nearest = _weights(pair, known.module)
    inputs = inputs.to(original.device)
    heavy = rounding.heavy_rows(original, nearest, inputs)
    others = _compared(pair, known.module, heavy)
    if not bool(heavy.any()):
        return others
    part = rounding.worst_outputs(original, image, nearest, inputs, heavy)
    return others.model_copy(update={"parts": (*others.parts, PartError(**part._asdict()))})


def nearest_errors(source: Path, modules: set[str], quant: QuantSettings) -> list[float]:
    """Return the relative error of each module if it were rounded to nearest, whatever a checkpoint has.

    Raises:
        UnknownFormat: if rounding in the format is not known.
    """
    from pipeline.models.dequantize import Tensors

    if quant.scheme is None:
        raise UnknownFormat(f"how {quant.title} rounds")
    before, found = Tensors(source), []
    for module in sorted(modules):
        if f"{module}.weight" in before:
            original, own = before[f"{module}.weight"].float(), quant.of(module)
            nearest = rounding.rounded(original, str(own.scheme), own.effective_group_size)
            found.append(rounding.relative_error(original, nearest))
    return found


def changed(folder: Path, source: Path, quant: QuantSettings) -> list[str]:
    """Return the unquantized tensors that are missing or not the BF16 checkpoint's, bit for bit.

    What AWQ and SmoothQuant rescaled beside the quantized weights is BF16's times its factors (see `Pair.is_kept`).

    Raises:
        UnknownFormat: if only tensors differ of which it is not known whether they were rescaled.
    """
    from pipeline.models.pair import Pair

    pair, path = Pair(folder, source, quant), gguf_file(folder)
    blocks = unpack_gguf.tensors(path) if path else {}
    tied = text_config(pair.config).get("tie_word_embeddings")
    found, unknown = [], None
    for name in sorted(pair.before.files):
        if name.removesuffix(".weight") in pair.modules:
            continue
        if name not in pair.after and name not in blocks:
            if not (tied and name == "lm_head.weight"):
                found.append(name)
            continue
        try:
            if not pair.is_kept(name, unpack_gguf.weight(blocks[name]) if blocks else pair.after[name]):
                found.append(name)
        except UnknownFormat as error:
            unknown = error
    if unknown is not None and not found:
        raise unknown
    return found
