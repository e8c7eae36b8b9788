"""Every quantized weight against the BF16 one: a wrong scale, order or zero point loads and answers all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import QuantSettings
from pipeline.models import tensor_files
from pipeline.verify.rounding import allowed, relative_error

# These scale weights by what their activations make important, and the modules before them by the inverse.
RESCALING = ("awq", "smoothquant")


def compare(folder: Path, source: Path, quant: QuantSettings) -> list[dict[str, Any]]:
    """Each quantized module with its relative error and the largest one that its format and algorithm explain.

    Raises:
        KeyError: on a format whose numbers are not known.
    """
    from safetensors import safe_open

    from pipeline.quantize.dequantized import weights

    found = []
    places = tensor_files(source)
    for module, image in weights(folder):
        name = f"{module}.weight"
        if name not in places:
            continue
        with safe_open(places[name], framework="pt") as file:
            original = file.get_tensor(name).float()
        if original.shape != image.shape:
            found.append({"module": module, "error": float("inf"), "allowed": 0.0})
            continue
        limit = allowed(original, str(quant.scheme), quant.effective_group_size, quant.algorithm)
        found.append({"module": module, "error": relative_error(original, image), "allowed": limit})
    return found
