"""The gate's comparison of weights: what a format explains passes, what it does not is found."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.__main__ import Run
from pipeline.config import PROJECT_ROOT, Stage
from pipeline.schemes import SCHEMES
from pipeline.verify import rounding
from pipeline.verify.weights import compare

DEMO = PROJECT_ROOT / "pipeline" / "demo" / "checkpoint"
MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real W4A16 checkpoint of the demo model."""
    import hydra
    from omegaconf import OmegaConf

    from pipeline.config import validate

    given = ["stage=quantize", "quant=w4a16", f"outputs={tmp_path_factory.mktemp('w4a16')}"]
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base=None):
        settings = validate(OmegaConf.to_container(hydra.compose("config", given), resolve=True))  # type: ignore[arg-type]
    run = Run([settings], given)
    assert run.execute() == 0
    return run.jobs[0].artifact(Stage.QUANTIZE).folder / "checkpoint"


def failures(folder: Path, settings) -> set[str]:
    found = compare(folder, DEMO, settings("quant=w4a16").quant)
    assert len(found) == 28
    return {item["module"] for item in found if not item["error"] <= item["allowed"]}


def test_what_the_engine_wrote_is_what_rounding_explains(checkpoint: Path, settings) -> None:
    assert failures(checkpoint, settings) == set()


def wrong_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_scale"] *= 1.25


def scales_of_another_order(tensors: dict[str, torch.Tensor]) -> None:
    scale = tensors[f"{MODULE}.weight_scale"]
    tensors[f"{MODULE}.weight_scale"] = scale.flip(0).contiguous()


def swapped_packing(tensors: dict[str, torch.Tensor]) -> None:
    packed = tensors[f"{MODULE}.weight_packed"]
    # Neighbouring integers change places, as between two packing orders.
    low, high = packed & 0x0F0F0F0F, (packed >> 4) & 0x0F0F0F0F
    tensors[f"{MODULE}.weight_packed"] = (low << 4) | high


def shifted_zero_point(tensors: dict[str, torch.Tensor]) -> None:
    from pipeline.quantize.packing import unpack

    packed = tensors[f"{MODULE}.weight_packed"]
    moved = (unpack(packed, 4, 1) + 1).clamp_max(15).reshape(packed.shape[0], -1, 8)
    tensors[f"{MODULE}.weight_packed"] = (moved << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_scale"][0, 0] = float("nan")


@pytest.mark.parametrize(
    "damage", [wrong_scale, scales_of_another_order, swapped_packing, shifted_zero_point, not_a_number]
)
def test_a_planted_fault_is_found_in_its_module(
    checkpoint: Path, tmp_path: Path, settings, damage: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert failures(tmp_path, settings) == {MODULE}


@given(st.integers(0, 1000), st.sampled_from([name for name in SCHEMES if SCHEMES[name].bits >= 8]))
def test_eight_bits_are_close_to_the_weight(seed: int, scheme: str) -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed))
    error = rounding.relative_error(weight, rounding.rounded(weight, scheme, SCHEMES[scheme].group))
    assert error < (0.05 if "FP8" in scheme else 0.02)


@given(st.integers(0, 1000), st.sampled_from([name for name in SCHEMES if SCHEMES[name].bits < 8]))
def test_four_bits_are_about_a_tenth_away(seed: int, scheme: str) -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed))
    error = rounding.relative_error(weight, rounding.rounded(weight, scheme, SCHEMES[scheme].group))
    assert 0.04 < error < 0.2


def test_rounding_twice_changes_nothing() -> None:
    weight = torch.randn(8, 256)
    for scheme in ("FP8", "FP8_DYNAMIC", "NF4"):
        once = rounding.rounded(weight, scheme, SCHEMES[scheme].group)
        assert torch.allclose(rounding.rounded(once, scheme, SCHEMES[scheme].group), once, rtol=1e-5)
