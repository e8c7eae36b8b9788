"""The gate on a mix of formats: each module is judged by its own format, and must have the one that was chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Variant
from pipeline.demo import CHECKPOINT
from pipeline.formats.rounding import relative_error
from pipeline.formats.schemes import SCHEMES
from pipeline.job import Job
from pipeline.models.architecture import read_config
from pipeline.models.dequantize import Tensors, Weights
from pipeline.models.headers import headers
from pipeline.models.mix import FILE, formats
from pipeline.stages.eval import layers as layer_errors
from pipeline.stages.eval.divergence import Text
from pipeline.stages.report.collect.footprints import of_checkpoint, of_config
from pipeline.stages.verify import activation_scales, canary, gate
from pipeline.stages.verify.outcomes import Failed, NotCompared

CANDIDATES = "quant.candidates=[W4A16,W8A8]"


@pytest.fixture(scope="module")
def mixed(made: Callable[..., Job]) -> Job:
    """A mix of INT4, INT8 and, where nothing is rounded, BF16."""
    return made("quant=mixed", CANDIDATES, "quant.bits=7", "quant.ignore=[lm_head,'re:.*layers.3.*down_proj']")


class Elsewhere:
    """A job whose checkpoint is another folder."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self.checkpoint = job, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


@pytest.fixture
def copied(mixed: Job, tmp_path: Path) -> Elsewhere:
    shutil.copytree(mixed.checkpoint, tmp_path / "checkpoint")
    return Elsewhere(mixed, tmp_path / "checkpoint")


def test_every_offline_check_passes(mixed: Job) -> None:
    folder, source, found = mixed.checkpoint, mixed.model.folder, gate.Findings()
    chosen = formats(folder)
    assert {*chosen.values()} == {"W4A16", "W8A8", "BF16"}
    assert "tokenizer unchanged" in gate.files(folder, source)
    assert gate.layers(folder, source, mixed).startswith("27 of 28 decoder Linears quantized")
    assert "(-0.0" in gate.size(folder, source, mixed, found) or "(+0.0" in gate.size(folder, source, mixed, found)
    assert "scales finite" in gate.scales(folder)
    assert "bit for bit" in gate.untouched(folder, source, mixed)
    assert gate.weights(mixed, found).startswith("27 compared with BF16")
    with pytest.raises(NotCompared):
        activation_scales.check(mixed)
    nearest = {each.module: each.nearest for each in found.weight_errors or ()}
    # Each is compared with rounding in its own format: 4 bits err by some percent, 8 bits by less than one.
    assert min(nearest[name] for name, scheme in chosen.items() if scheme == "W4A16") > 0.05
    assert max(nearest[name] for name, scheme in chosen.items() if scheme == "W8A8") < 0.02


def test_weights_are_decoded_by_their_own_layout(mixed: Job) -> None:
    images, before = Weights(mixed.checkpoint), Tensors(CHECKPOINT)
    for name, scheme in formats(mixed.checkpoint).items():
        if scheme != "BF16":
            error = relative_error(before[f"{name}.weight"].float(), images[name])
            assert error < (0.02 if SCHEMES[scheme].bits == 8 else 0.3), name


def test_a_module_in_another_format_than_the_chosen_one_is_found(mixed: Job, copied: Elsewhere) -> None:
    content = json.loads((copied.checkpoint / FILE).read_text())
    other = next(group for group in content["groups"] if group["format"] == "W8A8")
    other["format"] = "W4A16"
    (copied.checkpoint / FILE).write_text(json.dumps(content))
    with pytest.raises(Failed, match=rf"layers are not stored in the format of mix\.json, {min(other['modules'])}"):
        gate.layers(copied.checkpoint, mixed.model.folder, copied)


def test_a_module_that_was_to_stay_in_bf16_is_found(mixed: Job, copied: Elsewhere) -> None:
    content = json.loads((copied.checkpoint / FILE).read_text())
    next(group for group in content["groups"] if group["format"] == "W8A8")["format"] = "BF16"
    (copied.checkpoint / FILE).write_text(json.dumps(content))
    with pytest.raises(Failed, match="should not be quantized"):
        gate.layers(copied.checkpoint, mixed.model.folder, copied)


def test_the_coarsest_activations_bound_the_answers(mixed: Job) -> None:
    reference = [-1.0, -2.0, -3.0]
    settings = gate._as_stored(mixed)
    eight = settings.model_copy(update={"quant": settings.quant.candidate("W8A8")})
    four = settings.model_copy(update={"quant": settings.quant.candidate("W4A16")})
    bounds = [canary.allowed(each, 4, [0.001], reference) for each in (settings, eight, four)]
    assert bounds[0] == bounds[1] > bounds[2]


def test_layers_are_measured_with_their_own_activations(mixed: Job, tmp_path: Path) -> None:
    tokens = tuple(range(10, 50))
    found = layer_errors.measure(mixed, [Text(tokens, tuple(range(1, 40)))], 32, tmp_path)
    assert (found.modules, found.activations) == (27, "rounded")
    chosen = formats(mixed.checkpoint)
    for each in json.loads((tmp_path / layer_errors.FILE).read_text()):
        is_rounded = chosen[each["module"]] == "W8A8"
        assert (each["snr_db"] < each["weights_db"]) == is_rounded, each["module"]


def test_a_footprint_has_the_products_of_each_type(mixed: Job) -> None:
    found = of_checkpoint(mixed.checkpoint, "MIXED", "auto")
    shapes = {name: item["shape"] for name, item in headers(CHECKPOINT).items()}
    weights = dict.fromkeys(("W4A16", "W8A8", "BF16"), 0)
    for name, scheme in formats(mixed.checkpoint).items():
        weights[scheme] += shapes[f"{name}.weight"][0] * shapes[f"{name}.weight"][1]
    assert (found.activations, found.products) == ("int8", weights["W8A8"])
    # Products with four-bit weights are in BF16.
    assert found.bf16_products == weights["W4A16"] + weights["BF16"]
    taken = sum(item["data_offsets"][1] - item["data_offsets"][0] for item in headers(mixed.checkpoint).values())
    assert found.weight_bytes == taken


def test_a_footprint_is_that_of_the_budget_before_the_choice_is_made(mixed: Job) -> None:
    config = read_config(CHECKPOINT)
    five, seven = (of_config(config, Variant(quant=f"mixed(bits={bits})")) for bits in (5, 7))
    made = of_checkpoint(mixed.checkpoint, "MIXED", "auto")
    assert seven.weight_bytes == pytest.approx(made.weight_bytes, rel=0.05)
    assert seven.weight_bytes > five.weight_bytes
    sized = of_config(config, Variant(quant="mixed(bits=null,size_gb=0.005)"))
    assert sized.weight_bytes == pytest.approx(5e6, rel=1e-3)
