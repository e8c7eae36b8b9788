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
from pipeline.errors import ConfigError, InputError
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
    quant = SimpleNamespace(engine=engine, name="a format", scheme="W4A16", is_existing=False)
    assert not why_no_experts(quant, {"model_type": "llama"})  # type: ignore[arg-type]
    reason = why_no_experts(quant, {"model_type": "qwen3_moe", "num_experts": 4})  # type: ignore[arg-type]
    assert re.search(rf"quant\.engine={engine} .*qwen3_moe.*llmcompressor", reason)


@pytest.mark.parametrize(
    ("tensor", "is_joined"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj", True),
        ("language_model.model.layers.0.feed_forward.experts.down_proj", True),
        ("transformer.blocks.0.ffn.experts.mlp.w1", True),
        ("model.layers.0.block_sparse_moe.input_linear.weight", True),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", False),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", False),
        ("model.layers.0.shared_mlp.input_linear.weight", False),
    ],
)
def test_experts_that_are_one_tensor_are_quantized_by_no_engine(tensor: str, is_joined: bool, settings) -> None:
    config = {"model_type": "gpt_oss", "num_local_experts": 4}
    for quant in ("gptq", "fp8_dynamic", "gptq_int4"):
        assert ("are one tensor" in why_no_experts(settings(f"quant={quant}").quant, config, [tensor])) is is_joined
    (others,) = variants_of("variants=['folder:/data/theirs']", "add_bf16=false")
    for quant in (settings("quant=bf16").quant, others.quant.model_copy(update={"scheme": "W4A16"})):
        assert why_no_experts(quant, config, [tensor]) == ""


def test_a_mixture_of_joined_experts_is_refused_in_words(tmp_path: Path) -> None:
    folder = families.write("llama4", tmp_path / "model")

    def run_of(variants: str) -> Runner:
        given = ["stage=quantize", "model.name=m", f"model.path={folder}", f"outputs={tmp_path / 'out'}"]
        asked = [*given, "calibration.num_samples=2", f"variants=[{variants}]"]
        return Runner(variants_of(*asked), asked)

    with pytest.raises(ConfigError, match=r"fp8_dynamic cannot be made: .* one tensor \(model.layers.0.feed_forward"):
        run_of("bf16,fp8_dynamic")
    run = run_of("bf16,bf16+fp8_e4m3")
    assert run.execute() != 0
    assert isinstance(run.failures["bf16+fp8_e4m3"], InputError)
    assert "makes no Linear modules of the experts of Llama4ForCausalLM" in str(run.failures["bf16+fp8_e4m3"])


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
