"""The numbers that a quantized checkpoint stands for, module by module, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.quantize import packing, packing_bnb, packing_gguf
from pipeline.quantize.checkpoint import gguf_file, quantization_config, quantized_modules


def weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each quantized module with its weight, float32 of shape (out, in).

    Raises:
        KeyError: on a format whose numbers are not known here.
    """
    from safetensors.torch import load_file

    if (path := gguf_file(folder)) is not None:
        modules = quantized_modules(folder)
        found = ((name.removesuffix(".weight"), weight) for name, weight in packing_gguf.weights(path))
        yield from ((module, weight) for module, weight in found if module in modules)
        return
    tensors = {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}
    config = quantization_config(folder)
    method = str(config.get("quant_method"))
    for module in sorted(quantized_modules(folder)):
        if method == "bitsandbytes":
            yield module, packing_bnb.dequantize(module, tensors)
            continue
        own = {name.removeprefix(f"{module}."): t for name, t in tensors.items() if name.startswith(f"{module}.")}
        if method == "compressed-tensors":
            scheme = next(iter(config["config_groups"].values()))["weights"]
            kind, bits = str(config["format"]), int(scheme["num_bits"])
        else:
            kind, bits = str(config.get("checkpoint_format") or method), int(config["bits"])
            kind = "awq" if method == "awq" else kind
        if kind not in packing.NAMES:
            raise KeyError(kind)
        yield module, packing.dequantize(kind, own, bits)  # type: ignore[arg-type]
