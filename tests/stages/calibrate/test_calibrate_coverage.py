"""Tokens of each expert: counted as the router sends them, whole or layer by layer, and shown in the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import families
from support.settings import variants_of

from pipeline.config import Stage
from pipeline.hardware.probe import probe
from pipeline.models.architecture import chosen_experts, read_config
from pipeline.models.forward import Layerwise, Whole
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import load_model
from pipeline.models.modules import decoder_linears
from pipeline.results.calibration import CARD, RANGES, ExpertLayer, read_summary
from pipeline.runner import Runner
from pipeline.stages.calibrate.artifact import read_tokens
from pipeline.stages.calibrate.coverage import ExpertCoverage
from pipeline.stages.calibrate.observers import Observers

SMALL = ("calibration.num_samples=6", "calibration.max_seq_length=96")
UNLOVED, ROUTER = 2, "model.layers.1.mlp.gate.weight"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-MoE that chooses one of four experts, in its second layer never one of them."""
    folder = families.write("qwen3_moe", tmp_path_factory.mktemp("mixture") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 1}))
    tensors = load_file(folder / "model.safetensors")
    router = tensors[ROUTER]
    # Of two opposite experts one is above zero.
    router[1], router[UNLOVED] = -router[0], 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def runner(folder: Path, out: Path) -> Runner:
    given = ["stage=calibrate", f"model.path={folder}", "quant=fp8_static", f"outputs={out}", *SMALL]
    return Runner(variants_of(*given), given)


@pytest.fixture(scope="module")
def calibration(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its finished calibration."""
    run = runner(mixture, tmp_path_factory.mktemp("out"))
    assert run.execute() == 0, run.failures
    return run.jobs[0].artifact(Stage.CALIBRATE).folder


def test_counts_are_those_of_the_models_own_router(mixture: Path, calibration: Path) -> None:
    found = read_summary(calibration).experts
    assert [each.layer for each in found] == [0, 1, 2]
    assert [each.name for each in found] == [f"model.layers.{number}.mlp.experts" for number in range(3)]
    # Without linear experts, and without showing every token to every expert.
    model = load_model(mixture, probe("cpu"))
    counts = torch.zeros(3, 4, dtype=torch.int64)

    def count(gate: torch.nn.Module, _: object, made: tuple[torch.Tensor, ...]) -> None:
        counts[gates.index(gate)] += made[2].flatten().bincount(minlength=4)

    gates = [layer.mlp.gate for layer in model.model.layers]
    for gate in gates:
        gate.register_forward_hook(count)
    with torch.inference_mode():
        for sequence in read_tokens(calibration):
            model(sequence, use_cache=False)
    assert [each.tokens for each in found] == [tuple(row) for row in counts.tolist()]
    assert found[1].unrouted == (UNLOVED,)


def test_an_expert_that_no_token_chooses_is_named_and_has_ranges(calibration: Path) -> None:
    card = (calibration / CARD).read_text()
    (row,) = (line for line in card.splitlines() if line.startswith("| 1 | 4 |"))
    assert row.endswith(f"| {UNLOVED} |") and "every expert was shown every token" in card
    ranges = load_file(calibration / RANGES)
    for name in ("gate", "up", "down"):
        low, high = ranges[f"minmax.fp8_e4m3.model.layers.1.mlp.experts.{UNLOVED}.{name}_proj"]
        assert low < 0 < high


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "llama"])
def test_layer_by_layer_counts_and_observes_the_same(family: str, mixture: Path, tmp_path: Path) -> None:
    folder = mixture if family == "qwen3_moe" else families.write(family, tmp_path / family)
    (job,), sequences = runner(folder, tmp_path / "out").jobs, [list(range(number, 4 * number)) for number in (5, 9, 2)]
    seen = []
    for kind in (Whole, Layerwise):
        decoding = kind(job.model, job.hardware, lambda _: None)
        observers, coverage = Observers(decoding.model, job.settings.calibration, 3), ExpertCoverage(decoding.model)
        decoding.run(sequences, observers, lambda _: None)
        sketches = {site.name: (tuple(site.modules), site.sketch) for site in observers}
        seen.append((coverage.layers(), sketches))
    (whole, before), (layerwise, after) = seen
    assert whole == layerwise and len(whole) == (0 if family == "llama" else 3)
    assert before.keys() == after.keys()
    for name, (modules, sketch) in before.items():
        assert modules == after[name][0]
        assert torch.equal(sketch.histogram, after[name][1].histogram)
        assert torch.equal(sketch.extremes, after[name][1].extremes)
    # Under the names that the checkpoint, and with it the gate, has for them.
    linears = decoder_linears(stored_tensors(folder), read_config(folder))
    assert {module for modules, _ in before.values() for module in modules} == set(linears)
    tokens = sum(map(len, sequences))
    assert all(sum(layer.tokens) == tokens * chosen_experts(read_config(folder)) for layer in whole)


def test_runs_of_experts_are_shortened() -> None:
    layer = ExpertLayer(name="experts", layer=0, tokens=(0, 1, 0, 0, 0, 5))
    assert (layer.unrouted, layer.unrouted_text, layer.median) == ((0, 2, 3, 4), "0, 2-4", 0)
    assert ExpertLayer(name="experts", layer=0, tokens=(1, 2)).unrouted_text == "none"
