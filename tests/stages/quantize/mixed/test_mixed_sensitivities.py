"""Sensitivities: rounded as a checkpoint is, the same from whichever layer, and measured once for all budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.settings import settings_of

from pipeline.config import Settings, Stage
from pipeline.demo import CHECKPOINT
from pipeline.hardware.probe import probe
from pipeline.models.dequantize import Weights
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import load_model, stored_modules
from pipeline.models.mix import formats
from pipeline.models.modules import decoder_linears, loaded_as_one
from pipeline.runner import Runner
from pipeline.stages.quantize.mixed import sensitivities
from pipeline.stages.quantize.mixed.rounded import rounded
from pipeline.stages.quantize.mixed.sensitivities import Predictions

QKV = tuple(f"model.layers.2.self_attn.{name}_proj" for name in "qkv")


@pytest.fixture(scope="module")
def model():
    return load_model(CHECKPOINT, probe("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 3000, (1, length), generator=generator) for length in (24, 40, 9)]


@pytest.mark.parametrize("quant", ["w4a16", "int8_dynamic", "fp8_dynamic", "nvfp4a16"])
def test_weights_are_rounded_as_a_checkpoint_has_them(quant: str, model, mixed_outputs: Path) -> None:
    given = ["stage=quantize", f"quant={quant}", "quant.algorithm=rtn", f"outputs={mixed_outputs}"]
    run = Runner([settings_of(*given)], given)
    assert run.execute() == 0
    chosen, packed = run.jobs[0].settings, Weights(run.jobs[0].checkpoint)
    own = {name: stored_modules(model)[name] for name in QKV}
    before = {name: linear.weight.detach().clone() for name, linear in own.items()}
    with rounded(own, chosen.quant, dict.fromkeys(own, 10.0)):
        for name, linear in own.items():
            # Scales of groups are stored in BF16.
            assert torch.allclose(linear.weight, packed[name], rtol=2**-7, atol=1e-6)
            assert not torch.equal(linear.weight, before[name])
    for name, linear in own.items():
        assert torch.equal(linear.weight, before[name])
        assert [parameter for parameter, _ in linear.named_parameters()] == ["weight"]
        assert "forward" not in vars(linear)


@pytest.mark.parametrize(("scheme", "error"), [("W4A16", 0), ("W8A8", 0.01), ("FP8_DYNAMIC", 0.03), ("NVFP4", 0.1)])
def test_inputs_are_rounded_where_the_format_rounds_them(
    scheme: str, error: float, settings: Callable[..., Settings], model
) -> None:
    linear = stored_modules(model)[QKV[0]]
    inputs = torch.randn(50, linear.in_features, generator=torch.Generator().manual_seed(1))
    with rounded(
        {QKV[0]: linear}, settings("quant=mixed").quant.candidate(scheme), {QKV[0]: float(inputs.abs().max())}
    ):
        plain, seen = torch.nn.functional.linear(inputs, linear.weight), linear(inputs)
    found = float((seen - plain).norm() / plain.norm())
    assert found == 0 if error == 0 else error / 5 < found < 2 * error


def test_predictions_are_the_same_from_whichever_layer_they_are_computed(
    settings: Callable[..., Settings], model, sequences: list[torch.Tensor]
) -> None:
    own = {name: stored_modules(model)[name] for name in QKV}
    quant, largest = settings("quant=w4a16").quant, dict.fromkeys(own, 1.0)
    whole, later = Predictions(model, sequences), Predictions(model, sequences)
    assert max(map(abs, whole.kl())) < 1e-6
    later.advance(1)
    later.advance(2)
    with rounded(own, quant, largest):
        first, second = whole.kl(), later.kl()
    assert min(first) > 1e-3
    assert first == pytest.approx(second, rel=1e-3)
    assert later.tokens == sum(ids.shape[1] for ids in sequences)


def test_the_divergence_is_that_of_the_whole_distributions(
    settings: Callable[..., Settings], model, sequences: list[torch.Tensor]
) -> None:
    own = {name: stored_modules(model)[name] for name in QKV}

    def logprobs() -> torch.Tensor:
        with torch.inference_mode():
            return model(sequences[0]).logits[0].double().log_softmax(-1)

    predictions, known = Predictions(model, sequences), logprobs()
    with rounded(own, settings("quant=w4a16").quant, dict.fromkeys(own, 1.0)):
        expected = torch.nn.functional.kl_div(logprobs(), known, log_target=True, reduction="sum")
        assert predictions.kl()[0] == pytest.approx(float(expected), rel=1e-3)


def test_groups_are_what_vllm_loads_as_one() -> None:
    tensors = {
        f"model.layers.{layer}.{name}.weight": ("BF16", (8, 8))
        for layer in (0, 1)
        for name in (
            *(f"self_attn.{own}_proj" for own in "qkvo"),
            *(f"mlp.experts.{number}.{own}_proj" for number in (0, 1) for own in ("gate", "up", "down")),
            *(f"mlp.shared_experts.{own}_proj" for own in ("gate", "up", "down")),
        )
    }
    groups = loaded_as_one(decoder_linears(tensors, {"num_hidden_layers": 2}))
    assert {name.removeprefix("model.layers.1."): len(own) for name, own in groups.items() if "layers.1" in name} == {
        "self_attn.q_proj": 3,
        "self_attn.o_proj": 1,
        "mlp.experts": 6,
        "mlp.shared_experts.gate_proj": 2,
        "mlp.shared_experts.down_proj": 1,
    }


def test_one_pass_serves_every_budget(runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    first = runner("quant.bits=5")
    assert first.execute() == 0
    kept = sorted(first.workspace.root.glob("demo/sensitivities-*"))
    assert len(kept) == 1
    monkeypatch.setattr(sensitivities, "_measure", lambda *_: pytest.fail("measured again"))
    other = runner("quant.bits=7")
    job = other.jobs[0]
    assert "quant.bits 5.0 -> 7.0" in str(other.workspace.why(job.artifact(Stage.QUANTIZE)))
    assert other.execute() == 0
    assert sorted(first.workspace.root.glob("demo/sensitivities-*")) == kept
    less, more = formats(first.jobs[0].checkpoint), formats(job.checkpoint)
    assert sum(name == "W4A16" for name in less.values()) > sum(name == "W4A16" for name in more.values())
    # Nothing else depends on the budget.
    known = sensitivities.of(job)
    assert known.kl.keys() == loaded_as_one(decoder_linears(stored_tensors(CHECKPOINT), job.model.config)).keys()
    assert {scheme for own in known.kl.values() for scheme in own} == {"W4A16", "W8A8"}
    assert all(own["W4A16"] > own["W8A8"] >= 0 for own in known.kl.values())


def test_an_interrupted_pass_goes_on_where_it_stopped(runner: Callable[..., Runner], tmp_path) -> None:
    job, partial = runner("calibration.seed=1").jobs[0], tmp_path / "groups.jsonl"
    run = runner("calibration.seed=1")
    run._do(job, Stage.CALIBRATE)
    measured = sensitivities._measure(job, partial)
    lines = partial.read_text().splitlines()
    name = json.loads(lines[0])[0]
    # A line that is known is not measured again, and one that was cut off is.
    partial.write_text("\n".join([json.dumps([name, {"W4A16": 42.0, "W8A8": 41.0}]), *lines[1:-1], lines[-1][:20]]))
    resumed = sensitivities._measure(job, partial)
    assert resumed.kl[name] == {"W4A16": 42.0, "W8A8": 41.0}
    others = [each for each in measured.kl if each != name]
    assert list(resumed.kl) == list(measured.kl)
    for each in others:
        assert resumed.kl[each] == pytest.approx(measured.kl[each], rel=1e-3)
