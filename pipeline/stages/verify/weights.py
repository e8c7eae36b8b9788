"""Comparison of every tensor with BF16: a wrong scale, order or zero point loads without an error."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import QuantSettings
from pipeline.formats import unpack_gguf
from pipeline.formats.rounding import factor_error, limits, relative_error
from pipeline.models.architecture import read_config, text_config
from pipeline.models.headers import gguf_file, quantized_modules
from pipeline.models.rescaling import NORMS, RESCALING, Factors
from pipeline.results.verify import WeightError


def compare(folder: Path, source: Path, quant: QuantSettings) -> list[WeightError]:
    """Return each quantized module's errors (see `rounding`), and the limits for its format and algorithm.

    Rescaled weights are compared with their factors divided out, so that the errors of one format mean the same
    whatever algorithm made it.

    Raises:
        UnknownFormat: if the weights of the format or the model cannot be compared.
        MissingTensor: if a tensor of the format or the model is missing.
    """
    import torch

    from pipeline.models.dequantize import Tensors, Weights

    # Billions of weights take a minute on a CPU, and seconds on a GPU.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, before, after = Weights(folder, device), Tensors(source, device), Tensors(folder, device)
    factors: Factors | None = None
    if quant.algorithm in RESCALING:
        factors = Factors(
            text_config(read_config(source)),
            original=lambda name: before[name].float(),
            stored=lambda name: after[name].float(),
            weight=images.__getitem__,
        )
    found = []
    for module in images.modules:
        if f"{module}.weight" not in before:
            continue
        original, image = before[f"{module}.weight"].float(), images[module]
        if original.shape != image.shape:
            infinite = float("inf")
            found.append(WeightError(module=module, error=infinite, allowed=0, factor_error=infinite))
            continue
        scale = 1.0 if factors is None else factors.inputs(module) * factors.outputs(module)[:, None]
        scheme = images.block_format(module) or str(quant.scheme)
        group, image = quant.effective_group_size, image / scale
        limit = limits(original, scheme, group, quant.algorithm, scale)
        found.append(
            WeightError(
                module=module,
                error=relative_error(original, image),
                allowed=limit.error,
                factor_error=factor_error(original, image, group),
                allowed_factor_error=limit.factor_error,
            )
        )
    return found


def changed(folder: Path, source: Path, quant: QuantSettings) -> list[str]:
    """Return the unquantized tensors that are missing or not bit-identical to the BF16 checkpoint.

    Rescaled tensors are skipped: they are checked with the weights behind them.
    """
    import torch

    from pipeline.models.dequantize import Tensors

    before, after, path = Tensors(source), Tensors(folder), gguf_file(folder)
    blocks = unpack_gguf.tensors(path) if path else {}
    tied = text_config(read_config(source)).get("tie_word_embeddings")
    moved = (*(f"{norm}.weight" for norm in NORMS.values()), ".bias") if quant.algorithm in RESCALING else ()
    modules, found = quantized_modules(folder), []
    for name in sorted(before.files):
        if name.removesuffix(".weight") in modules or name.endswith(moved):
            continue
        if name not in after and name not in blocks:
            if not (tied and name == "lm_head.weight"):
                found.append(name)
            continue
        image = unpack_gguf.weight(blocks[name]) if blocks else after[name]
        original = before[name].to(image.dtype)
        if image.shape != original.shape or not torch.equal(image, original):
            found.append(name)
    return found
