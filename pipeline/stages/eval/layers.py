"""The output error of every quantized Linear against BF16, to locate bad layers.

Held-out text goes through the BF16 model, and inputs of each Linear are kept at tokens spread over all of it. Each
layer is then evaluated alone, with those same inputs x: the signal is W x, the noise is what the quantized layer puts
out instead, minus that, and their ratio over all tokens and outputs is in decibels, 10 log10(signal / noise); 20 dB is
an error of a tenth. Eight-bit inputs are rounded as the format rounds them while serving, by the checkpoint's scale
where it is static. `weights_db` leaves the inputs as they are: a difference of the two is due to the activations.

The Linears of an expert are measured on those of the chosen tokens that BF16's router sends to it, as no others reach
it in use; an expert that is sent none is counted, and not measured.

Errors of earlier layers do not enter, so the figures say which layer to leave in BF16, not how far the model moves.
Rescaling by an algorithm is taken into account (see `models.rescaling`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import UnknownFormat
from pipeline.models.activations import activation_scheme, is_known, rounded_inputs
from pipeline.models.headers import SchemeConfig, by_module, quantization_config, stored_tensors
from pipeline.models.layer_inputs import inputs_at
from pipeline.models.modules import decoder_linears
from pipeline.models.pair import Pair
from pipeline.results.base import Missing
from pipeline.results.eval import LayerError, LayerErrors
from pipeline.stages.eval.divergence import Text

if TYPE_CHECKING:
    from pipeline.job import Job

FILE = "layers.json"


def measure(job: Job, texts: Sequence[Text], tokens: int, folder: Path) -> LayerErrors | Missing:
    """Write `layers.json`, worst layer first; return the figures for the manifest, or the reason for none.

    Args:
        job: of a variant whose checkpoint is there.
        texts: held-out, as token ids.
        tokens: of all texts together, at which inputs are noted.
        folder: where the file goes.

    Raises:
        MissingTensor: where the checkpoint lacks a tensor of its format.
    """
    if job.settings.quant.engine == "none":
        return Missing(reason="no Linear is quantized")
    pair = Pair(job.checkpoint, job.model.folder, job.settings.quant)
    linears = decoder_linears(stored_tensors(job.model.folder), pair.config)
    modules = [name for name in linears if name in pair.modules]
    try:
        _ = pair.images
        config = by_module(quantization_config(job.checkpoint))
        schemes = {module: activation_scheme(config(module)) for module in modules}
        job.progress.detail("noting the inputs of BF16's layers")
        inputs = _inputs(job, texts, set(modules), tokens)
        job.progress.detail("each quantized layer against BF16")
        seen = ((module, torch.cat(inputs[module])) for module in modules if module in inputs)
        found = [_error(pair, module, rows, schemes[module]) for module, rows in seen if len(rows)]
    except UnknownFormat as error:
        return Missing(reason=f"not known here: {error.problem}")
    found.sort(key=lambda each: each.snr_db)
    (folder / FILE).write_text(json.dumps([each.model_dump() for each in found], indent=1))
    is_rounded = any(scheme is not None and is_known(scheme) for scheme in schemes.values())
    return LayerErrors(
        file=FILE,
        tokens=min(tokens, sum(len(text.counted) for text in texts)),
        modules=len(found),
        **({"unrouted": len(modules) - len(found)} if len(modules) > len(found) else {}),
        activations="rounded" if is_rounded else "as they are",
        median_db=found[len(found) // 2].snr_db,
        worst=tuple(found[:5]),
    )


def _inputs(job: Job, texts: Sequence[Text], modules: set[str], tokens: int) -> dict[str, list[torch.Tensor]]:
    """Return each module's inputs in parts, float32, (tokens, in); modules with the same input share memory.

    Only counted tokens are used: the first of a text, where activations are huge, is never one.
    """
    places = [(number, place) for number, text in enumerate(texts) for place in text.counted]
    spread = torch.linspace(0, len(places) - 1, min(tokens, len(places))).long().tolist()
    chosen = [torch.tensor([places[i][1] for i in spread if places[i][0] == number]) for number in range(len(texts))]
    sequences = [list(text.tokens) for text in texts]
    layerwise = job.settings.calibration.layerwise
    return inputs_at(chosen, sequences, modules, job.model, job.hardware, layerwise, job.progress.detail)


def _error(pair: Pair, module: str, x: torch.Tensor, scheme: SchemeConfig | None) -> LayerError:
    image, after = pair.images[module], pair.after
    signal = x @ pair.before[f"{module}.weight"].float().T
    # The rescaled model's layer gets its inputs divided by what its columns were multiplied with.
    seen, scale = x / pair.factors.inputs(module), pair.factors.outputs(module)
    static = after[f"{module}.input_scale"].float() if f"{module}.input_scale" in after else None
    rounded = seen if scheme is None or not is_known(scheme) else rounded_inputs(seen, scheme, static)
    return LayerError(
        module=module,
        snr_db=snr_db(signal, rounded @ image.T / scale),
        weights_db=snr_db(signal, seen @ image.T / scale),
    )


def snr_db(signal: torch.Tensor, output: torch.Tensor) -> float:
    """Return 10 log10 of the signal's power over that of the difference; 200 if both are equal in float32."""
    power, noise = float(signal.double().square().sum()), float((output - signal).double().square().sum())
    if noise <= power * 1e-20:
        return 200.0
    return 10 * math.log10(power / noise) if power > 0 and math.isfinite(noise) else -200.0
