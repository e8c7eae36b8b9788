"""Experts in each engine: shown every token, or named and rounded to nearest where none reaches them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import families
from support.settings import settings_of, variants_of
from support.synthetic_calibration import summary

from pipeline.config import Stage
from pipeline.results.base import read
from pipeline.results.calibration import SUMMARY
from pipeline.results.quantize import QuantizeResult
from pipeline.runner import Runner
from pipeline.stages.quantize.engines import autoround
from pipeline.stages.quantize.experts import CANNOT, rounded_to_nearest, why_no_experts
from pipeline.stages.verify import gate
from pipeline.stages.verify.weights import compare

UNLOVED, ROUTER = 2, "model.layers.1.mlp.gate.weight"
LAYERS = [
    {"name": "model.layers.0.mlp.experts", "layer": 0, "tokens": [9, 9, 9], "since": [0, 5, 1]},
    {"name": "model.layers.1.mlp.experts", "layer": 1, "tokens": [9, 0, 9], "since": [2, None, 0]},
]


def job_of(folder: Path, *overrides: str) -> Any:
    (folder / SUMMARY).write_text(json.dumps({**summary(2), "experts": LAYERS}))
    return SimpleNamespace(settings=settings_of(*overrides), artifact=lambda _: SimpleNamespace(folder=folder))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("quant=gptq_autoround",), ["model.layers.1.mlp.experts.1"]),
        # Of five samples none reaches an expert of the first layer.
        (
            ("quant=gptq_autoround", "calibration.algorithm_samples=5"),
            ["model.layers.0.mlp.experts.1", "model.layers.1.mlp.experts.1"],
        ),
        (("quant=gptq",), []),
        (("quant=gptq_int4",), []),
    ],
)
def test_experts_that_an_engine_shows_no_token_are_named(
    overrides: tuple[str, ...], named: list[str], tmp_path: Path
) -> None:
    assert list(rounded_to_nearest(job_of(tmp_path, *overrides))) == named


@pytest.mark.parametrize("engine", CANNOT)
def test_a_dense_model_is_refused_by_no_engine(engine: str) -> None:
    quant = SimpleNamespace(engine=engine, name="a format")
    assert not why_no_experts(quant, {"model_type": "llama"})  # type: ignore[arg-type]
    reason = why_no_experts(quant, {"model_type": "qwen3_moe", "num_experts": 4})  # type: ignore[arg-type]
    assert re.search(rf"quant\.engine={engine} .*qwen3_moe.*llmcompressor", reason)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gptq", "gptq_int4", "gptq_autoround"])
def test_an_expert_that_no_token_chooses_is_rounded_with_all_tokens_or_to_nearest(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few steps, and none that is compiled.
    monkeypatch.setattr(autoround, "ITERATIONS", 5)
    monkeypatch.setenv("CXX", "/nonexistent")
    folder = families.write("qwen3_moe", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 1}))
    tensors = load_file(folder / "model.safetensors")
    # Of two opposite experts one is above zero.
    tensors[ROUTER][1], tensors[ROUTER][UNLOVED] = -tensors[ROUTER][0], 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    given = ["stage=quantize", f"model.path={folder}", f"outputs={tmp_path / 'out'}", f"variants=[{variant}]"]
    given += ["calibration.num_samples=6", "calibration.max_seq_length=96", "quant.group_size=32"]
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0, run.failures
    (job,) = run.jobs
    made = read(QuantizeResult, job.artifact(Stage.QUANTIZE).manifest())
    gate.layers(job.checkpoint, folder, job)
    moved = {
        each.module: each.error > 1.1 * each.nearest for each in compare(job.checkpoint, folder, job.settings.quant)
    }
    # Algorithms trade the error of weights for that of outputs, where they see any.
    expert = f"model.layers.1.mlp.experts.{UNLOVED}"
    is_alone = variant == "gptq_autoround"
    assert [moved[f"{expert}.{name}_proj"] for name in ("gate", "up", "down")] == [not is_alone] * 3
    assert made.rounded_experts == ((expert,) if is_alone else ())
    assert all(each for name, each in moved.items() if ".experts." in name and expert not in name)
