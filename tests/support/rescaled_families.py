"""Families whose weights are rescaled as AWQ and SmoothQuant leave them, and what they answer."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.models.architecture import read_config
from pipeline.models.loading import model_class
from pipeline.models.mappings import rescaled_by
from pipeline.models.rescaling import norm_offset


def logits(folder: Path) -> torch.Tensor:
    """What a checkpoint answers to fixed tokens, computed in float32."""
    model = model_class(read_config(folder)).from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def pairs_of(folder: Path, algorithm: str) -> dict[str, str]:
    """The layer that llm-compressor divides for each that it multiplies."""
    shapes = {n.removesuffix(".weight"): tuple(t.shape) for n, t in tensors_of(folder).items() if n.endswith(".weight")}
    return rescaled_by(read_config(folder), shapes, algorithm, "llmcompressor")


def rescaled(folder: Path, pairs: dict[str, str]) -> dict[str, torch.Tensor]:
    """A model's tensors as the algorithm leaves them: columns multiplied, what is in front of them divided."""
    tensors = {name: tensor.float() for name, tensor in tensors_of(folder).items()}
    offset = norm_offset(read_config(folder))
    draw = torch.Generator().manual_seed(5)
    for maker in dict.fromkeys(pairs.values()):
        behind = [module for module, own in pairs.items() if own == maker]
        factors = torch.exp(0.7 * torch.randn(tensors[f"{behind[0]}.weight"].shape[-1], generator=draw))
        for module in behind:
            tensors[f"{module}.weight"] *= factors
        for name in (f"{maker}.weight", f"{maker}.bias"):
            if name in tensors:
                divided = tensors[name][-len(factors) :]
                one = offset if tensors[name].dim() == 1 and name.endswith("weight") else 0.0
                scale = factors[:, None] if divided.dim() == 2 else factors
                tensors[name][-len(factors) :] = (divided + one) / scale - one
    return tensors
