"""A model's weights rounded to nearest in four bits and packed as llm-compressor stores them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

from pipeline.models.safetensors import copy_companions

GROUP = 32


def packed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a module, W4A16_ASYM in groups of 32."""
    grouped = weight.float().reshape(len(weight), -1, GROUP)
    low, high = grouped.amin(-1, keepdim=True).clamp_max(0), grouped.amax(-1, keepdim=True).clamp_min(0)
    scale = ((high - low).clamp_min(1e-6) / 15).bfloat16().float()
    zero = (-8 - low / scale).round().clamp(-8, 7)
    codes = ((grouped / scale).round() + zero).clamp(-8, 7).to(torch.int8)
    return {
        f"{name}.weight_packed": pack_to_int32(codes.reshape(weight.shape), 4),
        f"{name}.weight_scale": scale[..., 0].bfloat16().contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape),
        f"{name}.weight_zero_point": pack_to_int32(zero[..., 0].to(torch.int8), 4, packed_dim=0).contiguous(),
    }


def write_packed(folder: Path, source: Path, tensors: dict[str, torch.Tensor], modules: Iterable[str]) -> Path:
    """Write a checkpoint of a model's tensors with these modules packed; the others are stored in BF16."""
    folder.mkdir(parents=True)
    copy_companions(source, folder)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        found |= packed(module, tensor) if module in modules else {name: tensor.bfloat16().contiguous()}
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": False}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head"],
    }
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder
