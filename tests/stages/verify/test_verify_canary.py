"""The canary's distance from BF16: what a format explains passes, another model does not."""

import contextlib
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.demo import CHECKPOINT
from pipeline.errors import ServerError
from pipeline.results.verify import CanaryAnswers
from pipeline.runner import Runner
from pipeline.stages.verify import canary, gate


@given(st.lists(st.floats(-20, 0), min_size=8, max_size=40).filter(lambda values: canary.spread(values) > 0.1))
def test_the_same_is_at_zero_and_a_constant_at_one(values: list[float]) -> None:
    assert canary.distance(values, values) == 0
    mean = sum(values) / len(values)
    assert canary.distance(values, [mean] * len(values)) == pytest.approx(1)
    assert canary.distance(values, [math.nan] * len(values)) == math.inf


def test_the_bound_grows_with_the_error_and_stays_below_another_models(settings) -> None:
    reference = [-1.0, -4.0, -9.0, -2.5]
    bounds = [canary.allowed(settings("quant=w4a16"), 4, [e], reference) for e in (0.005, 0.02, 0.08, 0.5)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == canary.CAP < 1
    plain = canary.allowed(settings("quant=bf16"), 4, [], reference)
    assert plain < canary.allowed(settings("quant=bf16", "kv_cache=fp8_e4m3"), 4, [], reference)
    assert plain < canary.allowed(settings("quant=fp8_dynamic"), 4, [], reference)


def test_the_bound_is_the_one_of_the_derivation(settings) -> None:
    """By hand: sqrt(6 (1 + ln 9)) = 4.380 times sqrt(2 0.00226^2 + 0.0707^2), and 0.0095 of the logits' rounding."""
    found = canary.allowed(settings("quant=w4a16"), 4, [0.08, 0.06], [-1.0, -4.0, -9.0, -2.5])
    assert found == pytest.approx(0.3102, abs=1e-4)
    larger = canary.allowed(settings("quant=w4a16", "model.weights=random"), 4, [0.08, 0.06], [-1.0, -4.0, -9.0, -2.5])
    assert larger == canary.CAP


@pytest.mark.parametrize("layers", [2, 8])
@pytest.mark.parametrize("error", [0.01, 0.1])
def test_independent_errors_of_all_weights_stay_within_the_bound(layers: int, error: float, settings) -> None:
    """The derivation, on a Qwen3 of random weights whose every Linear is off by the same relative error."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(layers)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(vocab_size=512, head_dim=32, num_hidden_layers=layers, initializer_range=0.08, **shape)
    model = Qwen3ForCausalLM(config).eval()
    tokens = torch.randint(0, 512, (4, 64))

    def asked() -> list[float]:
        with torch.no_grad():
            logprobs = model(tokens).logits.log_softmax(-1)[:, :-1]
        return logprobs.gather(-1, tokens[:, 1:, None]).flatten().tolist()

    reference = asked()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("_proj.weight"):
                weight += error * weight.norm() / weight.numel() ** 0.5 * torch.randn_like(weight)
    seen = canary.distance(reference, asked())
    assert (
        error / 2 < seen <= canary.allowed(settings("quant=w4a16", "model.weights=random"), layers, [error], reference)
    )


@pytest.mark.vllm
@pytest.mark.slow
def test_a_checkpoint_whose_weights_are_right_and_whose_config_is_not_is_found(tmp_path: Path, settings) -> None:
    """Positions that turn at another rate: every tensor is BF16's, vLLM loads it, and answers are those of no model."""
    given = ("stage=verify", "quant=bf16", f"outputs={tmp_path / 'outputs'}")
    run = Runner([settings(*given)], list(given))
    job = run.jobs[0]
    assert run.execute() == 0
    broken = tmp_path / "broken"
    shutil.copytree(CHECKPOINT, broken)
    config = json.loads((broken / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10.0
    (broken / "config.json").write_text(json.dumps(config))
    try:
        answers = canary.ask(job.serving.serve(broken, job.settings, "broken"))
    finally:
        job.serving.stop()
    reference = canary.reference(job)
    with pytest.raises(gate.Failed, match="of their spread away"):
        gate.log_probabilities(job, gate.Findings(reference=reference), answers)
    assert "0.0000 of their spread" in gate.log_probabilities(job, gate.Findings(reference=reference), reference)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        # Half a unit of 8, 4, 3 and 2 bits, uniform; INT8 with an outlier of 32 times the others' rms.
        *(("bf16", 0.00225527), ("fp8", 0.0360844), ("fp8_e5m2", 0.0721688), ("fp4", 0.1443376)),
        ("int8", 32 / (127 * 12**0.5)),
    ],
)
def test_the_error_of_a_number_is_that_of_its_bits(number: str, error: float) -> None:
    assert canary.relative_rounding(number) == pytest.approx(error, rel=1e-5)


REFERENCE = [-1.0, -2.0, -3.0, -4.0]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("quant=w4a16",), 0.0),
        (("quant=fp8_dynamic",), 0.0360844),
        (("quant=w4a16", "kv_cache=fp8_e5m2"), 0.0721688),
        (("quant=int8_dynamic", "kv_cache=fp8_e4m3"), math.hypot(0.0727372, 0.0360844)),
    ],
)
def test_kernels_explain_their_rounding_and_that_of_activations_and_cache(
    settings, given: tuple[str, ...], error: float
) -> None:
    """By hand: sqrt(6 (1 + ln 9)) = 4.37975 of all errors, and of the logits sqrt(2) 0.0022553 times 4 / 1.11803."""
    found = canary.allowed_of_kernels(settings(*given), 4, REFERENCE, [REFERENCE])
    product = math.hypot((14 / 3) ** 0.5 * 0.0022553, error)
    assert found == pytest.approx(math.hypot(4.37975 * product, 0.0114107), rel=1e-4)
    layers = 28
    deeper = canary.allowed_of_kernels(settings(*given), layers, REFERENCE, [REFERENCE])
    assert deeper == pytest.approx(math.hypot((6 * (1 + math.log(57))) ** 0.5 * product, 0.0114107), rel=1e-4)


def test_weights_explain_their_root_mean_square(settings) -> None:
    plain = canary.allowed(settings("quant=bf16"), 4, [], REFERENCE)
    assert plain == pytest.approx(math.hypot(4.37975 * 2**0.5 * 0.0022553, 0.0114107), rel=1e-4)
    found = canary.allowed(settings("quant=w4a16"), 4, [0.03, 0.04, 0.0], REFERENCE)
    product = math.hypot(2**0.5 * 0.0022553, (0.0025 / 3) ** 0.5)
    assert found == pytest.approx(math.hypot(4.37975 * product, 0.0114107), rel=1e-4)
    random = canary.allowed(settings("quant=bf16", "model.weights=random"), 4, [], REFERENCE)
    assert random == pytest.approx(3 * plain)


def test_the_distance_is_in_standard_deviations() -> None:
    assert canary.spread(REFERENCE) == pytest.approx(1.25**0.5) and canary.spread([2.0, 2.0]) == 1e-6
    assert canary.distance(REFERENCE, [-1.0, -2.0, -3.0, -5.0]) == pytest.approx(0.5 / 1.25**0.5)
    with pytest.raises(ValueError):
        canary.distance(REFERENCE, REFERENCE[:3])


def test_answers_of_all_texts_are_one_list() -> None:
    server = SimpleNamespace(prompt_logprobs=lambda texts: [[(len(texts), -0.5), (2, -1.0)], [], [(3, -2.0)]])
    assert canary.ask(server) == CanaryAnswers(tokens=(4, 2, 3), logprobs=(-0.5, -1.0, -2.0))


def test_bf16s_answers_are_made_once_and_a_failure_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, why = list[str](), {"key": "missing"}
    artifact = SimpleNamespace(key="key", folder=tmp_path)
    workspace = SimpleNamespace(
        why=lambda artifact: why["key"], claim=lambda artifact: contextlib.nullcontext(why["claimed"])
    )
    job = SimpleNamespace(workspace=workspace)

    def make(job: object, artifact: object) -> None:
        made.append("tried")
        raise ServerError("no room", "Look.")

    monkeypatch.setattr(canary, "_artifact", lambda job: artifact)
    monkeypatch.setattr(canary, "_make_reference", make)
    monkeypatch.setattr(canary, "_unserved", {})
    why["claimed"] = "missing"
    for _ in range(2):
        with pytest.raises(ServerError, match="no room"):
            canary.reference(job)
    assert made == ["tried"]
    (tmp_path / "canary.json").write_text(json.dumps({"tokens": [1], "logprobs": [-0.5]}))
    expected = CanaryAnswers(tokens=(1,), logprobs=(-0.5,))
    canary._unserved.clear()
    # Another process made it meanwhile, or it was there from the start.
    why["claimed"] = None
    assert canary.reference(job) == expected
    why["key"] = None
    assert canary.reference(job) == expected and made == ["tried"]
