"""NVFP4 and MXFP4: the stored blocks are the weights; what is calibrated is calibrated, the rest needs no data."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Stage
from pipeline.demo import CHECKPOINT
from pipeline.runner import Runner
from pipeline.stages.calibrate.artifact import read_ranges

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
LARGEST = 6
LARGEST_SCALE = 448


def run(settings, outputs: Path, quant: str, stages: str) -> Runner:
    given = (
        *(f"stage={stages}", f"quant={quant}", f"outputs={outputs}"),
        *("calibration.num_samples=16", "calibration.max_seq_length=256"),
    )
    made = Runner([settings(*given)], list(given))
    assert made.execute() == 0
    return made


def dequantized(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A layer's weights: two numbers a byte, the first in the low half; its sign is the fourth bit."""
    packed, scale = tensors[f"{name}.weight_packed"], tensors[f"{name}.weight_scale"]
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(packed.shape[0], -1).long()
    values = E2M1[codes & 7] * torch.where(codes >= 8, -1.0, 1.0)
    if scale.dtype is torch.uint8:
        factor = torch.exp2(scale.float() - 127)
    else:
        # The scale of the tensor is stored as a divisor.
        factor = scale.float() / tensors[f"{name}.weight_global_scale"]
    return values * factor.repeat_interleave(values.shape[1] // factor.shape[1], dim=1)


def nearest(weight: torch.Tensor, group: int) -> torch.Tensor:
    """The nearest numbers of E2M1 with an exact scale per block: what no stored scale does better than by luck."""
    blocks = weight.reshape(weight.shape[0], -1, group)
    scale = (blocks.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-12)
    grid = torch.cat([E2M1, -E2M1])
    return (grid[((blocks / scale)[..., None] - grid).abs().argmin(-1)] * scale).reshape(weight.shape)


# A power of two as the scale wastes up to half of the range; an FP8 number next to nothing.
@pytest.mark.parametrize(
    ("quant", "stages", "group", "worse"),
    [("nvfp4", "[calibrate,quantize]", 16, 1.05), ("mxfp4", "quantize", 32, 1.35)],
)
def test_the_weights_are_right(settings, tmp_path: Path, quant: str, stages: str, group: int, worse: float) -> None:
    made = run(settings, tmp_path, quant, stages)
    tensors = load_file(made.jobs[0].checkpoint / "model.safetensors")
    original = load_file(CHECKPOINT / "model.safetensors")
    names = {name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")}
    assert len(names) == 28
    for name in names:
        weight = original[f"{name}.weight"].float()
        error, least = (dequantized(tensors, name) - weight).norm(), (nearest(weight, group) - weight).norm()
        assert 0 < error < worse * least
        assert error < 0.16 * weight.norm()
    assert torch.equal(tensors["lm_head.weight"], original["lm_head.weight"])
    if quant == "nvfp4":
        job = made.jobs[0]
        assert {tensors[f"{name}.input_global_scale"].dtype for name in names} == {torch.float32}
        ranges = read_ranges(job.artifact(Stage.CALIBRATE).folder, job.settings.calibration, "fp8_e4m3")
        # The first layer's input is what the BF16 model had; further down, what came before is already rounded.
        first = "model.layers.0.self_attn.q_proj"
        seen = max(map(abs, ranges[first]))
        assert float(tensors[f"{first}.input_global_scale"]) == pytest.approx(LARGEST * LARGEST_SCALE / seen, rel=0.02)
    else:
        assert not list(tmp_path.glob("demo/calibrate-*"))


def test_nvfp4_needs_tokens_and_mxfp4_does_not(settings) -> None:
    assert settings("quant=nvfp4").needs_calibration
    assert not settings("quant=nvfp4").takes_ranges
    assert not settings("quant=mxfp4").needs_calibration


def test_how_many_tokens_are_shown_belongs_to_the_result(settings, tmp_path: Path) -> None:
    def keys(quant: str) -> set[str]:
        overrides = ("stage=quantize", f"quant={quant}", f"outputs={tmp_path}")
        variants = [settings(*overrides, f"calibration.algorithm_samples={n}") for n in (4, 8)]
        return {str(Runner([each], []).jobs[0].artifact(Stage.QUANTIZE).folder) for each in variants}

    assert len(keys("nvfp4")) == 2
    assert len(keys("mxfp4")) == 1
