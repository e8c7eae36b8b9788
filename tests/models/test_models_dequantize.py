"""Weights of others are decoded, or refused by the module whose tensors are of another form."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import InputError
from pipeline.models.dequantize import Weights

MODULE = "model.layers.0.mlp.up_proj"
PACKED = {
    "weight_packed": torch.zeros((2, 1), dtype=torch.int32),
    "weight_scale": torch.ones((2, 1)),
    "weight_shape": torch.tensor([2, 8]),
}
STATE = {"shape": [2, 8], "blocksize": 64}
NF4 = {
    "weight": torch.zeros(8, dtype=torch.uint8),
    "weight.absmax": torch.ones(1),
    "weight.quant_map": torch.arange(16.0),
}


def weights(folder: Path, tensors: dict[str, torch.Tensor], quantization: dict[str, Any]) -> Weights:
    save_file({f"{MODULE}.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    return Weights(folder)


def compressed(bits: Any, group: Any = 8) -> dict[str, Any]:
    own = {"weights": {"num_bits": bits, "type": "int", "group_size": group}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": own}}


def packed_state(state: Any) -> dict[str, torch.Tensor]:
    content = json.dumps(state).encode()
    return {**NF4, "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(content), dtype=torch.uint8)}


def test_what_is_of_the_form_is_decoded(tmp_path: Path) -> None:
    assert weights(tmp_path, PACKED, compressed(4))[MODULE].tolist() == [[-8.0] * 8] * 2
    assert weights(tmp_path, packed_state(STATE), {"quant_method": "bitsandbytes"})[MODULE].shape == (2, 8)


@pytest.mark.parametrize("bits", [0, -4, 33, 10**12, None])
def test_integers_of_impossible_bits_are_refused(tmp_path: Path, bits: Any) -> None:
    with pytest.raises(InputError, match=f"{MODULE}: its tensors do not fit"):
        _ = weights(tmp_path, PACKED, compressed(bits))[MODULE]


@pytest.mark.parametrize("shape", [[2], [2, 8, 1], [-1, 8]])
def test_another_shape_is_refused(tmp_path: Path, shape: list[int]) -> None:
    wrong = PACKED | {"weight_shape": torch.tensor(shape), "weight_scale": torch.ones((2, 3))}
    with pytest.raises(InputError, match=MODULE):
        _ = weights(tmp_path, wrong, compressed(4))[MODULE]


@pytest.mark.parametrize(
    "state", [5, [], {}, STATE | {"shape": 5}, STATE | {"shape": [3, 3]}, STATE | {"blocksize": "x"}, "[" * 5000]
)
def test_a_state_of_another_form_is_refused(tmp_path: Path, state: Any) -> None:
    with pytest.raises(InputError, match=f"{MODULE}: its tensors do not fit"):
        _ = weights(tmp_path, packed_state(state), {"quant_method": "bitsandbytes"})[MODULE]
