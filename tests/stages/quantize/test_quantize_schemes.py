"""FP8_BLOCK, W4AFP8, NVFP4A16 and MXFP8: made by llm-compressor, stored as predicted, and read as it reads them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file

from pipeline.config import QuantSettings
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError
from pipeline.formats.rounding import relative_error, rounded
from pipeline.hardware.probe import probe
from pipeline.models.dequantize import Weights
from pipeline.models.headers import quantization_config
from pipeline.runner import Runner
from pipeline.stages.verify import file_sizes, gate
from pipeline.stages.verify.weights import changed, compare

# Setting -> what llm-compressor names the layout, and the shape of the scales of a weight of (768, 256).
MADE = {
    "fp8_block": ("float-quantized", (6, 2)),
    "w4afp8": ("pack-quantized", (768, 2)),
    "nvfp4a16": ("nvfp4-pack-quantized", (768, 16)),
    "mxfp8": ("mxfp8-quantized", (768, 8)),
}
# A scale in BF16 or FP8 is at most this much worse than an exact one.
BY_SCALES = 1.05


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, settings) -> Callable[..., tuple[Path, QuantSettings]]:
    outputs, found = tmp_path_factory.mktemp("outputs"), {}

    def make(quant: str, *overrides: str) -> tuple[Path, QuantSettings]:
        if (quant, *overrides) not in found:
            given = ("stage=quantize", f"quant={quant}", f"outputs={outputs}", *overrides)
            run = Runner([settings(*given)], list(given))
            assert run.execute() == 0
            assert not list(outputs.glob("demo/calibrate-*")) or overrides
            found[quant, *overrides] = run.jobs[0].checkpoint, run.jobs[0].settings.quant
        return found[quant, *overrides]

    return make


def by_compressed_tensors(folder: Path, module: str) -> torch.Tensor:
    """The module's weight as the library that packed it unpacks it, in the precision of its scales."""
    config = quantization_config(folder)
    tensors = load_file(folder / "model.safetensors")
    own = {name.removeprefix(f"{module}."): each for name, each in tensors.items() if name.startswith(f"{module}.")}
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    return BaseCompressor.get_value_from_registry(config["format"]).decompress(own, scheme)["weight"].float()


@pytest.mark.parametrize("quant", MADE)
def test_the_weights_are_those_of_the_format(quant: str, made) -> None:
    folder, settings = made(quant)
    assert quantization_config(folder)["format"] == MADE[quant][0]
    tensors, original = load_file(folder / "model.safetensors"), load_file(CHECKPOINT / "model.safetensors")
    assert tensors["model.layers.0.mlp.up_proj.weight_scale"].shape == MADE[quant][1]
    assert not any(name.endswith("input_global_scale") for name in tensors)
    weights = Weights(folder)
    assert len(weights.modules) == 28
    for module in weights.modules:
        weight, image = original[f"{module}.weight"].float(), weights[module]
        nearest = relative_error(weight, rounded(weight, str(settings.scheme), settings.effective_group_size))
        assert 0 < relative_error(weight, image) < BY_SCALES * nearest
        # It multiplies in BF16.
        assert torch.allclose(image, by_compressed_tensors(folder, module), rtol=2**-7, atol=0)


@pytest.mark.parametrize("quant", MADE)
def test_the_gate_predicts_its_size_and_passes_its_weights(quant: str, made) -> None:
    folder, settings = made(quant)
    job = SimpleNamespace(settings=SimpleNamespace(quant=settings), hardware=probe("auto"))
    predicted = file_sizes.predicted(CHECKPOINT, settings, False, in_float32=not job.hardware.has_native_bf16)
    assert file_sizes.differences(predicted, folder) == []
    assert sum(predicted.values()) == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.0005)
    assert "28 of 28" in gate.layers(folder, CHECKPOINT, job)
    assert "finite and in range" in gate.scales(folder)
    assert changed(folder, CHECKPOINT, settings) == []
    assert max(each.excess for each in compare(folder, CHECKPOINT, settings)) <= 1


def planted(folder: Path, quant: QuantSettings, tensors: dict[str, torch.Tensor]) -> set[str]:
    """The modules that the gate refuses once these tensors are stored instead."""
    stored = load_file(folder / "model.safetensors") | tensors
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return {each.module for each in compare(folder, CHECKPOINT, quant) if each.excess > 1}


@pytest.mark.parametrize("quant", MADE)
def test_scales_in_another_order_are_found(quant: str, made, tmp_path: Path) -> None:
    folder, settings = made(quant)
    copy = Path(shutil.copytree(folder, tmp_path / "checkpoint"))
    module = "model.layers.1.mlp.down_proj"
    scale = load_file(copy / "model.safetensors")[f"{module}.weight_scale"]
    turned = (scale.view(torch.uint8) if scale.dtype is torch.float8_e4m3fn else scale).flip(1).contiguous()
    assert planted(copy, settings, {f"{module}.weight_scale": turned.view(scale.dtype)}) == {module}


def test_w4afp8_by_gptq_is_packed_alike(made) -> None:
    few = ("calibration.num_samples=4", "calibration.max_seq_length=128")
    folder, settings = made("w4afp8", "quant.algorithm=gptq", *few)
    assert quantization_config(folder)["format"] == "pack-quantized"
    assert max(each.excess for each in compare(folder, CHECKPOINT, settings)) <= 1


@pytest.mark.parametrize("quant", MADE)
def test_no_data_is_needed_and_groups_are_fixed(quant: str, settings) -> None:
    assert not settings(f"quant={quant}").needs_calibration
    with pytest.raises(ConfigError, match="no configurable groups"):
        settings(f"quant={quant}", "quant.group_size=64")
