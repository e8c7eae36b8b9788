"""The numbers that a quantized checkpoint stands for, one module in memory at a time, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.models import tensor_files
from pipeline.quantize import packing, packing_bnb, packing_gguf
from pipeline.quantize.checkpoint import gguf_file, quantization_config, quantized_modules


def weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each quantized module with its weight, float32 of shape (out, in).

    Raises:
        KeyError: on a format whose numbers are not known here.
    """
    from safetensors import safe_open

    if (path := gguf_file(folder)) is not None:
        modules = quantized_modules(folder)
        found = ((name.removesuffix(".weight"), weight) for name, weight in packing_gguf.weights(path))
        yield from ((module, weight) for module, weight in found if module in modules)
        return
    places = tensor_files(folder)
    parts: dict[str, list[str]] = {module: [] for module in sorted(quantized_modules(folder))}
    for name in places:
        # A module's tensors are named below it: `<module>.qweight`, `<module>.weight.absmax`.
        owner = name
        while owner and owner not in parts:
            owner = owner.rpartition(".")[0]
        if owner:
            parts[owner].append(name)
    config = quantization_config(folder)
    method = str(config.get("quant_method"))
    for module, names in parts.items():
        tensors = {}
        for name in names:
            with safe_open(places[name], framework="pt") as file:
                tensors[name] = file.get_tensor(name)
        if method == "bitsandbytes":
            yield module, packing_bnb.dequantize(module, tensors)
            continue
        own = {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()}
        if method == "compressed-tensors":
            scheme = next(iter(config["config_groups"].values()))["weights"]
            kind, bits = str(config["format"]), int(scheme["num_bits"])
        else:
            kind, bits = str(config.get("checkpoint_format") or method), int(config["bits"])
            kind = "awq" if method == "awq" else kind
        if kind not in packing.NAMES:
            raise KeyError(kind)
        yield module, packing.dequantize(kind, own, bits)  # type: ignore[arg-type]
